// node wasm.mjs PYODIDE SITE SOURCE ARGUMENT...: tests/platforms/scenario.py in CPython for wasm32.  See wasm.sh.
// An argument that is a folder is mounted, and shown to the program under its own name.
import fs from "fs";
import path from "path";
import { pathToFileURL } from "url";

const [pyodide, site, source, ...given] = process.argv.slice(2);
// This build of NumPy wants one symbol of libc that this build of CPython lacks.
const core = path.join(pyodide, "pyodide.asm.js");
const text = fs.readFileSync(core, "utf8");
if (!text.includes('"backtrace":')) {
  fs.writeFileSync(core, text.replace("var wasmImports={", 'var wasmImports={"backtrace":()=>0,'));
}
const { loadPyodide } = await import(pathToFileURL(path.resolve(pyodide, "pyodide.mjs")));
const python = await loadPyodide({ indexURL: path.resolve(pyodide) + "/" });
const mount = (host, guest) => {
  python.FS.mkdirTree(guest);
  python.FS.mount(python.FS.filesystems.NODEFS, { root: path.resolve(host) }, guest);
};
mount(site, "/site");
mount(source, "/checkout");
const shown = given.map((one) => {
  if (!path.isAbsolute(one)) return one;
  const parent = path.dirname(one);
  const guest = "/given" + parent;
  if (!python.FS.analyzePath(guest).exists) mount(parent, guest);
  return guest + "/" + path.basename(one);
});
python.globals.set("ARGUMENTS", python.toPy(["/checkout/tests/platforms/scenario.py", ...shown]));
const code = await python.runPythonAsync(`
import runpy, sys
sys.path[:0] = ["/site"]
sys.argv = list(ARGUMENTS)
code = 0
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as done:
    code = done.code or 0
code`);
process.exit(code);
