// Made go_vectors.json, once: tlog and note of golang.org/x/mod/sumdb, as vendored in Go 1.19.8, were copied beside
// this file into a module "gox", and `go run . receipts.json > go_vectors.json` laid out one case a line.
// On stderr Go says what it makes of the notes in spec/vectors/receipts.json: it signs the same bytes, opens the good
// ones and refuses the bad ones, but for three: a key's signature that stands twice (Go looks at the first), and texts
// that are no checkpoint of the key's (which is no business of a note's).

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"gox/note"
	"gox/tlog"
)

type store []tlog.Hash

func (s store) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = s[x]
	}
	return out, nil
}

func hx(h tlog.Hash) string { return hex.EncodeToString(h[:]) }
func join(p []tlog.Hash) string {
	var b bytes.Buffer
	for _, h := range p {
		b.Write(h[:])
	}
	return hex.EncodeToString(b.Bytes())
}
func must(err error) {
	if err != nil {
		panic(err)
	}
}

type M = map[string]interface{}

func main() {
	var s store
	const total = 66000
	for i := int64(0); i < total; i++ {
		hs, err := tlog.StoredHashes(i, []byte(fmt.Sprint(i)), s)
		must(err)
		s = append(s, hs...)
	}
	out := M{"leaf": "leaf i is H(00 | decimal digits of i)"}
	var inc, cons, tiles, paths []M
	for _, n := range []int64{1, 2, 3, 7, 8, 255, 256, 257, 1000, 65535, 65536, 65537, 66000} {
		root, err := tlog.TreeHash(n, s)
		must(err)
		for _, i := range []int64{0, 1, n / 2, n - 2, n - 1} {
			if i < 0 || i >= n {
				continue
			}
			p, err := tlog.ProveRecord(n, i, s)
			must(err)
			inc = append(inc, M{"size": n, "index": i, "root": hx(root), "path": join(p)})
		}
		for _, m := range []int64{1, 2, 3, 6, 128, 255, 256, 300, 65536, n - 1, n} {
			if m < 1 || m > n {
				continue
			}
			p, err := tlog.ProveTree(n, m, s)
			must(err)
			old, err := tlog.TreeHash(m, s)
			must(err)
			cons = append(cons, M{"old": m, "new": n, "old_root": hx(old), "new_root": hx(root), "path": join(p)})
		}
	}
	for _, n := range []int64{1, 300, 66000} {
		for _, t := range tlog.NewTiles(8, 0, n) {
			few := n < 66000 || t.L > 0 || t.N == 0 || t.N > 255
			if !few || (t.W < 256 && int64(t.W) != (n>>(8*t.L))&255) { // Go names each earlier form of a tile, too
				continue
			}
			data, err := tlog.ReadTileData(t, s)
			must(err)
			sum := sha256.Sum256(data)
			tiles = append(tiles, M{"size": n, "path": strings.TrimPrefix(t.Path(), "tile/8/"), "sha256": hex.EncodeToString(sum[:])})
		}
	}
	for _, n := range []int64{0, 7, 999, 1000, 1234067, 1000000000} {
		paths = append(paths, M{"number": n, "path": strings.TrimPrefix(tlog.Tile{H: 8, L: 0, N: n, W: 256}.Path(), "tile/8/0/")})
	}
	out["inclusion"], out["consistency"], out["tiles"], out["paths"] = inc, cons, tiles, paths

	// notes: Go opens what the twin signed, and signs the same bytes
	data, err := os.ReadFile(os.Args[1])
	must(err)
	var v struct {
		Signer struct {
			VerifierKey string `json:"verifier_key"`
			SignerKey   string `json:"signer_key"`
		}
		Notes        []struct{ Why, Note string }
		InvalidNotes []struct{ Why, Note string } `json:"invalid_notes"`
	}
	must(json.Unmarshal(data, &v))
	ver, err := note.NewVerifier(v.Signer.VerifierKey)
	must(err)
	sig, err := note.NewSigner(v.Signer.SignerKey)
	must(err)
	for _, c := range v.Notes {
		n, err := note.Open([]byte(c.Note), note.VerifierList(ver))
		must(err)
		if c.Why == "signed" {
			again, err := note.Sign(&note.Note{Text: n.Text}, sig)
			must(err)
			fmt.Fprintln(os.Stderr, "signed by Go, same bytes:", string(again) == c.Note)
		}
	}
	for _, c := range v.InvalidNotes {
		_, err := note.Open([]byte(c.Note), note.VerifierList(ver))
		fmt.Fprintf(os.Stderr, "%-55s %v\n", c.Why, err)
	}
	sk, vk, err := note.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 64)), "go.example/log")
	must(err)
	s2, err := note.NewSigner(sk)
	must(err)
	text := "go.example/log\n3\n" + "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nseq 2\nstate " + strings.Repeat("ab", 32) + "\n"
	msg, err := note.Sign(&note.Note{Text: text}, s2, sig)
	must(err)
	out["note"] = M{"signer_key": sk, "verifier_key": vk, "note": string(msg)}
	// the example in Go's documentation of package note: its published key and note
	out["documented"] = M{
		"verifier_key": "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
		"signer_key":   "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz",
		"note":         "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n",
	}
	enc := json.NewEncoder(os.Stdout)
	enc.SetEscapeHTML(false)
	must(enc.Encode(out))
}
