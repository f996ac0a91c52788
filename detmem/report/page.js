// Draws the timeline, zooms, and compares two moments.  It reads the JSON beside it and asks for nothing else.
// Text of the store reaches the page as textContent only.  A range stands in the address as #first-last.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const plot = document.getElementById("plot"), growth = document.getElementById("growth");
  if (!plot) return;
  const LANE = 46, AXIS = 24, GROWTH = 170, MIN_BAR = 2;
  const number = (n) => n.toLocaleString("en-US");
  const classOf = (index) => "k" + (index % 8);
  let view = [1, data.seq]; // first and last seq that are seen, both in

  const make = (name, attributes = {}, ...inside) => {
    const svgNames = ["svg", "rect", "line", "path", "text", "g", "title"];
    const node = svgNames.includes(name)
      ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...inside);
    return node;
  };

  const binOf = (seq) => Math.min(data.bins.length - 1, Math.floor((seq - 1) / data.width));
  const firstOf = (bin) => bin * data.width + 1;
  const lastOf = (bin) => Math.min(data.seq, (bin + 1) * data.width);
  const span = () => view[1] - view[0] + 1;

  // A seq is as wide as its share of the view: seq s fills [x(s), x(s + 1)).
  const scale = (width) => (seq) => ((seq - view[0]) / span()) * width;

  function ticks(low, high, count) {
    const raw = Math.max(1, (high - low) / Math.max(1, count)), power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
    const found = [];
    for (let at = Math.ceil(low / step) * step; at <= high; at += step) found.push(at);
    return found;
  }

  function axis(svg, width, top, x) {
    svg.append(make("line", { class: "rule", x1: 0, x2: width, y1: top, y2: top }));
    for (const seq of ticks(view[0], view[1], Math.floor(width / 64))) {
      const at = x(seq) + Math.min(1, (x(seq + 1) - x(seq)) / 2);
      const anchor = at < 24 ? "start" : at > width - 24 ? "end" : "middle";
      svg.append(make("line", { class: "rule", x1: at, x2: at, y1: top, y2: top + 4 }));
      svg.append(make("text", { x: at, y: top + 18, "text-anchor": anchor }, number(seq)));
    }
  }

  // The bins that are seen, put together so that no bar is narrower than a reader can see.
  function columns(width) {
    const first = binOf(view[0]), last = binOf(view[1]);
    const together = Math.max(1, Math.ceil((last - first + 1) / Math.max(1, Math.floor(width / MIN_BAR))));
    const found = [];
    for (let at = first; at <= last; at += together) {
      const end = Math.min(last, at + together - 1), counts = data.kinds.map(() => 0);
      for (let bin = at; bin <= end; bin++) data.bins[bin].forEach((n, kind) => { counts[kind] += n; });
      found.push({ first: firstOf(at), last: lastOf(end), bin: end, counts });
    }
    return found;
  }

  function drawTimeline() {
    const width = plot.clientWidth, height = data.kinds.length * LANE + 10, x = scale(width);
    const svg = make("svg", { viewBox: `0 0 ${width} ${height + AXIS}`, height: height + AXIS, role: "img", tabindex: 0,
      "aria-label": `Operations by kind, seq ${view[0]} to ${view[1]}; arrow keys move, plus and minus zoom, 0 shows all` });
    const seen = columns(width);
    for (const seq of data.segments) if (seq > view[0] && seq <= view[1])
      svg.append(make("line", { class: "segment", x1: x(seq), x2: x(seq), y1: 0, y2: height }));
    if (data.bad !== null && data.bad === view[1] + 1)
      svg.append(make("line", { class: "fault", x1: width - 1, x2: width - 1, y1: 0, y2: height }, make("title", {}, `damaged from seq ${number(data.bad)} on`)));
    data.kinds.forEach(([kind, colour], lane) => {
      const bottom = (lane + 1) * LANE, most = Math.max(...seen.map((one) => one.counts[lane]), 0);
      const total = seen.reduce((sum, one) => sum + one.counts[lane], 0);
      svg.append(make("line", { class: "rule", x1: 0, x2: width, y1: bottom, y2: bottom }));
      const bars = make("g", { class: classOf(colour), "shape-rendering": "crispEdges" });
      for (const one of seen) {
        const count = one.counts[lane];
        if (!count) continue;
        const left = Math.max(0, x(one.first)), right = Math.min(width, x(one.last + 1));
        const tall = 3 + (LANE - 22) * Math.log1p(count) / Math.log1p(most);
        const gap = right - left > 5 ? 1 : 0;
        bars.append(make("rect", { x: left.toFixed(2), width: Math.max(1, right - left - gap).toFixed(2),
          y: (bottom - tall).toFixed(2), height: tall.toFixed(2) }));
      }
      svg.append(bars);
      svg.append(make("text", { class: "name", x: 0, y: bottom - LANE + 13 }, kind));
      svg.append(make("text", { x: width, y: bottom - LANE + 13, "text-anchor": "end" }, number(total)));
    });
    for (const seq of data.snapshots) if (seq >= view[0] && seq <= view[1]) {
      const at = x(seq + 1);
      svg.append(make("path", { class: "snapshot", d: `M${at - 5} ${height + 1}h10l-5-8z` }, make("title", {}, `snapshot at seq ${number(seq)}`)));
    }
    axis(svg, width, height, x);
    put(plot, svg, width, height);
  }

  function drawGrowth() {
    if (!growth) return;
    const width = growth.clientWidth, x = scale(width), first = binOf(view[0]), last = binOf(view[1]);
    const svg = make("svg", { viewBox: `0 0 ${width} ${GROWTH + AXIS}`, height: GROWTH + AXIS, role: "img",
      "aria-label": "Records that were live, by collection" });
    let most = 1;
    const curves = data.series.map((one) => {
      let before = 0;
      const inside = [];
      for (const [bin, count] of one.points) {
        if (bin < first) before = count;
        else if (bin <= last) inside.push([bin, count]);
      }
      most = Math.max(most, before, ...inside.map((point) => point[1]));
      return [before, inside];
    });
    const y = (count) => GROWTH - (GROWTH - 14) * count / most;
    const counts = ticks(0, most, 4);
    for (const count of counts) svg.append(make("line", { class: "rule", x1: 0, x2: width, y1: y(count), y2: y(count) }));
    curves.forEach(([before, inside], index) => {
      let path = `M0 ${y(before).toFixed(2)}`;
      for (const [bin, count] of inside) path += `H${Math.max(0, x(firstOf(bin))).toFixed(2)}V${y(count).toFixed(2)}`;
      svg.append(make("path", { class: "curve " + classOf(index), d: path + `H${width}` }));
    });
    for (const count of counts) if (count) svg.append(make("text", { x: 0, y: y(count) - 3 }, number(count)));
    axis(svg, width, GROWTH, x);
    put(growth, svg, width, GROWTH);
    const chips = make("ul", { class: "chips" });
    data.series.forEach((one, index) => {
      const dot = make("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, make("rect", { class: classOf(index), width: 12, height: 12, rx: 3 }));
      chips.append(make("li", {}, dot, make("bdi", {}, one.name)));
    });
    growth.append(chips);
  }

  // --- looking and zooming

  function tell(seq) {
    const readout = document.getElementById("readout"), told = document.getElementById("growth-readout");
    if (seq === null) {
      readout.textContent = `seq ${number(view[0])} to ${number(view[1])} of ${number(data.seq)}`;
      if (told) told.textContent = "";
      return;
    }
    const one = columns(plot.clientWidth).find((column) => seq <= column.last);
    const done = data.kinds.map(([kind], index) => [kind, one.counts[index]]).filter((pair) => pair[1]);
    const where = one.first === one.last ? `seq ${number(one.first)}` : `seq ${number(one.first)} to ${number(one.last)}`;
    readout.textContent = `${where}: ${done.map(([kind, n]) => `${kind} ${number(n)}`).join(", ")} · state root then ${data.roots[one.bin]}`;
    if (told) told.textContent = `${where}: ` + data.series.map((series) => {
      const before = series.points.filter((point) => point[0] <= one.bin).pop();
      return `${series.name} ${number(before ? before[1] : 0)}`;
    }).join(", ");
  }

  function put(place, svg, width, height) {
    const cursor = make("line", { class: "cursor", y1: 0, y2: height, visibility: "hidden" });
    const brush = make("rect", { class: "brush", y: 0, height, width: 0 });
    svg.append(cursor, brush);
    place.replaceChildren(svg);
    const at = (event) => Math.min(width, Math.max(0, (event.clientX - svg.getBoundingClientRect().left)));
    const seqAt = (pixel) => Math.min(view[1], Math.max(view[0], Math.floor(view[0] + pixel / width * span())));
    let from = null;
    svg.addEventListener("pointerdown", (event) => { from = at(event); svg.setPointerCapture(event.pointerId); });
    svg.addEventListener("pointermove", (event) => {
      const now = at(event);
      cursor.setAttribute("x1", now); cursor.setAttribute("x2", now); cursor.setAttribute("visibility", "visible");
      if (from !== null) { brush.setAttribute("x", Math.min(from, now)); brush.setAttribute("width", Math.abs(now - from)); }
      tell(seqAt(now));
    });
    svg.addEventListener("pointerup", (event) => {
      const now = at(event), wide = from !== null && Math.abs(now - from) > 6;
      const ends = wide ? [seqAt(Math.min(from, now)), seqAt(Math.max(from, now))] : null;
      from = null;
      brush.setAttribute("width", 0);
      if (ends) show(ends[0], ends[1]);
    });
    svg.addEventListener("pointercancel", () => { from = null; brush.setAttribute("width", 0); });
    svg.addEventListener("pointerleave", () => { cursor.setAttribute("visibility", "hidden"); tell(null); });
    svg.addEventListener("dblclick", () => show(1, data.seq));
  }

  const moves = {
    in: () => { const quarter = Math.floor(span() / 4); show(view[0] + quarter, view[1] - quarter); },
    out: () => { const half = Math.ceil(span() / 2); show(view[0] - half, view[1] + half); },
    back: () => { const by = Math.min(view[0] - 1, Math.ceil(span() / 2)); show(view[0] - by, view[1] - by); },
    on: () => { const by = Math.min(data.seq - view[1], Math.ceil(span() / 2)); show(view[0] + by, view[1] + by); },
    all: () => show(1, data.seq),
  };
  const tools = document.getElementById("tools"), buttons = {};
  for (const [move, sign, words] of [["in", "+", "closer"], ["out", "−", "further off"], ["back", "←", "earlier"], ["on", "→", "later"], ["all", "whole log", "the whole log"]]) {
    buttons[move] = make("button", { type: "button", "aria-label": words, title: words }, sign);
    buttons[move].addEventListener("click", moves[move]);
    tools.append(buttons[move]);
  }
  tools.hidden = false;
  const keys = { "+": "in", "=": "in", "-": "out", ArrowLeft: "back", ArrowRight: "on", 0: "all" };
  plot.addEventListener("keydown", (event) => {
    if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    moves[keys[event.key]]();
    plot.querySelector("svg").focus();
  });

  // --- what follows the plot: the comparison of its two ends, and the list of commits

  function compare() {
    if (!data.events) return;
    const [first, last] = [view[0] - 1, view[1]], before = new Map(), after = new Map();
    for (const [seq, key, vector, content] of data.events.list) {
      if (seq <= first) before.set(key, [vector, content]);
      if (seq <= last) after.set(key, [vector, content]);
    }
    const found = { Added: [], Removed: [], Changed: [] };
    for (const [key, [vector, content]] of after) {
      const [oldVector, oldContent] = before.get(key) || [0, 0];
      const parts = [["vector", vector !== oldVector], ["content", content !== oldContent]].filter((part) => part[1]);
      if (!parts.length) continue;
      const list = !oldVector ? "Added" : !vector ? "Removed" : "Changed";
      found[list].push([key, list === "Changed" ? parts.map((part) => part[0]).join(" and ") : ""]);
    }
    const moment = (seq) => (seq ? `seq ${number(seq)}` : "the beginning");
    document.getElementById("change-from").textContent = moment(first);
    document.getElementById("change-to").textContent = moment(last);
    const lists = Object.entries(found).map(([title, items]) => {
      items.sort((a, b) => data.events.ranks[a[0]] - data.events.ranks[b[0]]);
      const rows = items.slice(0, data.listed).map(([key, parts]) => {
        const [collection, id] = data.events.keys[key];
        const row = make("li", {}, make("bdi", {}, collection), " ", make("bdi", {}, id));
        if (parts) row.append(" ", make("span", { class: "tag" }, parts));
        return row;
      });
      if (items.length > data.listed) rows.push(make("li", { class: "more" }, `and ${number(items.length - data.listed)} more`));
      const sign = { Added: "+", Removed: "-", Changed: "~" }[title];
      const head = make("h3", {}, make("span", { class: "sign" }, sign), ` ${title} `, make("b", {}, number(items.length)));
      const inside = rows.length ? make("ul", { class: "scroll", tabindex: 0 }, ...rows) : make("p", { class: "none" }, "none");
      return make("div", { class: "list" }, head, inside);
    });
    document.getElementById("change-lists").replaceChildren(...lists);
  }

  function listCommits() {
    const table = document.getElementById("commits-table");
    if (!table) return;
    let listed = 0;
    for (const row of table.tBodies[0].rows) {
      const seq = Number(row.dataset.seq);
      row.hidden = seq < view[0] || seq > view[1];
      listed += row.hidden ? 0 : 1;
    }
    const all = listed === table.tBodies[0].rows.length;
    document.getElementById("commits-shown").textContent = all ? "" : `${number(listed)} of them lie in the range that the plot shows.`;
  }

  function show(first, last) {
    view = [Math.max(1, Math.min(first, data.seq)), Math.min(data.seq, Math.max(first, last, 1))];
    const whole = view[0] === 1 && view[1] === data.seq;
    for (const move of ["out", "back", "on", "all"]) buttons[move].disabled = whole;
    buttons.in.disabled = span() < 4;
    buttons.back.disabled = view[0] === 1;
    buttons.on.disabled = view[1] === data.seq;
    try {
      history.replaceState(null, "", whole ? "#" : `#${view[0]}-${view[1]}`);
    } catch { /* some readers forbid it: then the address does not follow, and nothing else is lost */ }
    draw();
    compare();
    listCommits();
  }

  function draw() {
    drawTimeline();
    drawGrowth();
    tell(null);
  }

  function begin() {
    const asked = /^#(\d{1,15})-(\d{1,15})$/.exec(location.hash);
    if (asked) show(Number(asked[1]), Number(asked[2]));
    else show(data.view[0] + 1, data.view[1]);
  }
  let width = 0;
  new ResizeObserver(() => {
    if (plot.clientWidth === width) return;
    width = plot.clientWidth;
    draw();
  }).observe(plot);
  window.addEventListener("hashchange", begin);
  begin();
})();
