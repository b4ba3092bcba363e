"use strict";
// The page at work: tables that sort, filter, unfold and choose; charts that follow them; an address that keeps the choice.
const root = document.documentElement, find = (q, e = document) => e.querySelector(q), all = (q, e = document) => [...e.querySelectorAll(q)];
const data = JSON.parse(find("#data").textContent), MOST_ROWS = 200, MOST_DOTS = 16, LINE_PX = 14, MOST_LINES = 120, COLORED = 5, PALETTE = 7, MARKS = ["", "rect", "triangle", "diamond"], DASHES = ["solid", "dashed", "dotted", [9, 3, 2, 3]];
const make = (tag, properties, ...children) => { const e = Object.assign(document.createElement(tag), properties); e.append(...children); return e; };
const color = name => getComputedStyle(root).getPropertyValue(name).trim();
// The next number of two digits, for the end of an axis: rounded to the nearest, it would cut what lies just below.
const above = (x, step = 10 ** (Math.floor(Math.log10(x)) - 1)) => x > 0 ? +(step * Math.ceil(+(x / step).toPrecision(12))).toPrecision(2) : undefined;
// A half away from zero, as the tables have it, also of a number that rounding left a hair below.
const fixed = (x, digits) => (Math.sign(x) * Math.round(+(Math.abs(x) * 10 ** digits).toPrecision(12)) / 10 ** digits).toFixed(digits);
const percent = (x, digits = 1) => `${fixed(100 * x, digits)} %`;
root.classList.add("scripted");

// What was chosen stands in the address after #, so that a link, a reload and the next renewal show the same.
const address = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
const keep = (key, value) => {
  if (value) address.set(key, value); else address.delete(key);
  history.replaceState(null, "", `#${address}`);
};
all("a[href^='#']").forEach(a => a.addEventListener("click", event => {
  event.preventDefault();
  const there = find(`[id="${a.getAttribute("href").slice(1)}"]`);
  if (there.tagName === "DETAILS") there.open = true;
  there.scrollIntoView();
}));
all("details:not([open])").forEach(d => {
  d.open = address.has(d.id);
  d.addEventListener("toggle", () => keep(d.id, d.open ? "open" : ""));
});
addEventListener("beforeprint", () => all("details").forEach(d => { d.open = true; }));

if (address.get("theme")) root.dataset.theme = address.get("theme");
const themed = [];  // called when the colours change
find("#theme").onclick = () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  keep("theme", root.dataset.theme);
  themed.forEach(f => f());
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => themed.forEach(f => f()));
const age = () => {  // a page that stays open grows old
  const minutes = Math.floor((Date.now() - Date.parse(data.written)) / 60000), [n, unit] = minutes < 90 ? [minutes, "minute"] : minutes < 2880 ? [Math.round(minutes / 60), "hour"] : [Math.round(minutes / 1440), "day"];
  find(".age").textContent = minutes < 5 ? "" : `, ${n} ${unit}s ago`;
};
age();
setInterval(age, 60000);
if (data.refresh_s) setInterval(() => {  // a reader in the middle of something, which the address does not keep, is left alone
  const busy = find("dialog").open ? "a figure is enlarged" : find("tr.seeds") ? "a row's trials are open" : document.activeElement.matches("input.filter") ? "you type in the filter" : "";
  if (busy) find(".renewed").textContent = `not renewed while ${busy}`; else location.reload();
}, 1000 * data.refresh_s);

const TERM = /^([\w.]+)(!=|>=|<=|=|>|<)(.+)$/, signs = { ">": (a, b) => a > b, "<": (a, b) => a < b, ">=": (a, b) => a >= b, "<=": (a, b) => a <= b };
const like = (text, value) => new RegExp(`^${value.replace(/[^\w*]/g, "\\$&").replaceAll("*", ".*")}$`, "i").test(text);
const cellOf = c => Array.isArray(c) ? { text: c[0], key: c[1], under: c[2] || "" } : { text: c, key: c, under: "" };

// One leaderboard. state: what a reader chose; listeners: the charts, told of every change.
function openBoard(section, part, prefix) {
  const body = find("table.board tbody", section), heads = all("table.board th", section), filter = find("input.filter", section);
  const names = heads.map(h => h.textContent.trim().replace(/ %$/, "")), told = find(".shown", section), paper = find(".on-paper", section), more = find(".more", section);
  const rows = part.rows.map(([cells, style, trials, details], point) => ({ cells: [...cells.map(cellOf), { text: trials, key: +trials, under: "" }], style, details, point }));
  rows.forEach(r => { r.words = r.cells.map(c => c.text).join(" ").toLowerCase(); });
  const state = { chosen: (address.get(`${prefix}rows`) || "").split(",").map(id => part.ids.indexOf(id)).filter(p => p >= 0), ranges: {}, hot: null, shown: [] };
  const listeners = [], tell = what => listeners.forEach(f => f(what));
  const axes = part.explore ? [...part.explore.axes, { name: `validation ${part.explore.objective}` }] : [];  // those to brush
  let sorted = null, most = MOST_ROWS;

  // Comparisons are those of the commands' filter, as far as there are columns, of rows and not of trials: = takes what a table prints, of several values with commas.
  const keyOf = title => title.replaceAll(" ", "_"), keys = names.map(n => keyOf(n).toLowerCase()), shares = heads.map(h => h.textContent.trim().endsWith("%"));
  const columnOf = word => { const m = word.match(TERM); return m ? keys.indexOf(m[1].toLowerCase()) : -1; };
  const equal = ({ text, key }, value) => like(text, value) || like(String(key), value) || (value === "null" && ["-", "none given"].includes(text)) || (typeof key === "number" && !isNaN(value) && [key, text && +text].includes(+value));
  const holds = (row, word) => {
    const c = columnOf(word);
    if (c < 0) return row.words.includes(word.toLowerCase());
    const cell = row.cells[c], [, , sign, value] = word.match(TERM);
    if (!(sign in signs)) return [value, ...value.split(",")].filter(Boolean).some(v => equal(cell, v)) === (sign === "=");
    return typeof cell.key === "number" && signs[sign](cell.key, shares[c] && value > 1 ? value / 100 : +value);
  };
  filter.title = `The filter takes words, and comparisons (= != > < >= <=) of ${keys.filter(k => /^[\w.]+$/.test(k)).join(", ")}; numbers are the row's means, ${shares.includes(true) ? "accuracies as fractions or in percent, " : ""}time in seconds`;
  const inRanges = row => Object.entries(state.ranges).every(([c, spans]) => spans.some(([low, high]) => {
    const x = part.explore.columns[c][row.point];
    return x !== null && low <= x && x <= high;
  }));
  const order = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "string" ? -1 : 1;
  const joined = (told, word) => {  // a value with blanks, as a class's name may have them, is one where a cell begins so
    const last = told.at(-1) || "", c = columnOf(last), longer = `${last} ${word}`, value = c < 0 ? "" : longer.match(TERM)[3].toLowerCase();
    const begins = c >= 0 && rows.some(r => [value, value.split(",").at(-1)].some(v => r.cells[c].text.toLowerCase().startsWith(v)));
    return begins ? [...told.slice(0, -1), longer] : [...told, word];
  };
  const arrange = () => {
    const words = names.reduce((text, n) => text.replaceAll(n, keyOf(n)), filter.value).replace(/\s*(!=|>=|<=|=|>|<)\s*/g, "$1").replace(/([=,])"([^"]*)"(?=[\s,]|$)/g, "$1$2").split(/\s+/).filter(Boolean).reduce(joined, []);
    state.wrong = words.map(w => {
      const m = w.match(TERM);
      return !m ? "" : columnOf(w) < 0 ? (rows.some(r => holds(r, w)) ? "" : `${w}: no column has that name`) : !(m[2] in signs) ? "" : isNaN(m[3]) ? `${w}: ${m[2]} compares with a number` : rows.some(r => typeof r.cells[columnOf(w)].key === "number") ? "" : `${w}: no number stands there`;
    }).find(Boolean);
    state.found = rows.filter(r => words.every(w => holds(r, w)));  // before the ranges: what the axes show
    state.shown = state.found.filter(inRanges);
    if (sorted) {
      const [c, up] = sorted;
      state.shown = state.shown.map(r => [r.cells[c].key, r]).sort(([a], [b]) => a === null ? (b === null ? 0 : 1) : b === null ? -1 : up ? order(a, b) : order(b, a)).map(([, r]) => r);
    }
  };
  const line = r => {
    const tr = make("tr", { className: r.style });
    r.cells.slice(0, -1).forEach((c, n) => {
      const td = tr.insertCell();
      if (n === 0 && part.explore) {
        const box = make("input", { type: "checkbox", checked: state.chosen.includes(r.point), ariaLabel: `choose row ${r.point + 1}` });
        box.onchange = () => choose(r.point);
        td.append(make("label", {}, box, make("span", { className: "swatch" }), c.text));
      } else td.append(c.text);
      if (heads[n].classList.contains("right")) td.className = "right";
      else if (c.text.length > 18) td.title = c.text;
      if (c.under) td.append(make("small", { textContent: c.under }));
    });
    const open = make("button", { className: "open", textContent: `${r.cells.at(-1).text} ▸`, ariaExpanded: "false", ariaLabel: `show the ${r.cells.at(-1).text} trials` });
    open.onclick = () => unfold(r, tr, open);
    tr.insertCell().append(open);
    tr.onmouseenter = () => heat(r.point);
    tr.onmouseleave = () => heat(null);
    tr.dataset.point = r.point;
    return tr;
  };
  const unfold = (r, tr, button) => {
    const was = button.ariaExpanded === "true";
    all("tr.seeds", body).forEach(e => e.remove());
    all(".open", body).forEach(e => { e.ariaExpanded = "false"; });
    if (was) return;
    button.ariaExpanded = "true";
    const extra = make("tr", { className: "seeds" }), cell = extra.insertCell();
    cell.colSpan = heads.length;
    cell.append(make("div", { textContent: r.details.facts.join(" · ") }));
    for (const [id, to, text, job, logs] of r.details.trials) {
      const seed = make("div", {}, link(id, to), ` ${text}`);
      if (job) seed.append(" · ", link(job, logs));
      cell.append(seed);
    }
    tr.after(extra);
  };
  const paint = () => all("tr[data-point]", body).forEach(tr => {
    const c = colorOf(+tr.dataset.point);
    tr.classList.toggle("hot", +tr.dataset.point === state.hot);
    const swatch = find(".swatch", tr);
    if (swatch) { swatch.style.background = c || "transparent"; swatch.className = `swatch ${c ? MARKS[turnOf(+tr.dataset.point)] : ""}`; }
  });
  const update = () => {
    arrange();
    body.replaceChildren(...state.shown.slice(0, most).map(line));
    const left = state.shown.length - most;
    told.textContent = state.wrong ? `${state.wrong}. ${filter.title}.` : `${state.shown.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} ${rows.length === 1 ? "configuration" : "configurations"}`;
    more.hidden = left <= 0;
    more.textContent = `show ${Math.min(left, MOST_ROWS)} more of ${left.toLocaleString("en")}`;
    heads.forEach((h, c) => { if (sorted && sorted[0] === c) h.setAttribute("aria-sort", sorted[1] ? "ascending" : "descending"); else h.removeAttribute("aria-sort"); });
    keep(`${prefix}filter`, filter.value.trim());
    keep(`${prefix}sort`, sorted ? `${names[sorted[0]]},${sorted[1] ? "up" : "down"}` : "");
    keep(`${prefix}rows`, state.chosen.map(p => part.ids[p]).join(","));
    const spans = axes.map((_, c) => (state.ranges[c] || []).map(([low, high]) => `${+low.toPrecision(4)}..${+high.toPrecision(4)}`).join(","));
    axes.forEach((axis, c) => keep(`${prefix}${axis.name}`, spans[c]));
    const asked = [filter.value.trim(), ...axes.map((axis, c) => spans[c] && `${axis.name} ${spans[c]}`)].filter(Boolean).join(", ");
    const first = left > 0 ? `the first ${most}` : state.shown.length < rows.length ? state.shown.length.toLocaleString("en") : "";
    paper.textContent = first && `The table shows ${first} of ${(left > 0 ? state.shown : rows).length.toLocaleString("en")} configurations${asked && ` (filter: ${asked})`}; sentences and figures are of all.`;
    tell("rows");
    paint();
  };
  // The place of a point among those that have a look: of those chosen, else of the best five that are shown; none where all
  // looks, a colour with a mark, are given away.
  const placeOf = point => {
    const place = (state.chosen.length ? state.chosen : state.shown.slice(0, COLORED).map(r => r.point)).indexOf(point);
    return place < PALETTE * MARKS.length ? place : -1;
  };
  const colorOf = point => { const place = placeOf(point); return place < 0 ? null : color(`--f${place % PALETTE}`); };
  const turnOf = point => Math.floor(Math.max(placeOf(point), 0) / PALETTE);  // from the eighth on colours come again, with a mark
  const choose = point => {
    state.chosen = state.chosen.includes(point) ? state.chosen.filter(p => p !== point) : [...state.chosen, point];
    const boxes = all("tr[data-point] input", body);
    boxes.forEach(b => { b.checked = state.chosen.includes(+b.closest("tr").dataset.point); });
    keep(`${prefix}rows`, state.chosen.map(p => part.ids[p]).join(","));
    tell("rows");
    paint();
  };
  const heat = point => { if (point !== state.hot) { state.hot = point; paint(); tell("hot"); } };
  const setRange = (axis, spans) => { if (spans.length) state.ranges[axis] = spans; else delete state.ranges[axis]; update(); };

  heads.forEach((head, c) => { find("button", head).onclick = () => {
    sorted = [c, sorted && sorted[0] === c ? !sorted[1] : !/acc|f1|auroc/.test(names[c])];
    update();
  }; });
  filter.oninput = update;
  more.onclick = () => { most += MOST_ROWS; update(); };
  filter.value = address.get(`${prefix}filter`) || "";
  const [column, way] = (address.get(`${prefix}sort`) || "").split(/,(?=\w+$)/);
  if (names.includes(column)) sorted = [names.indexOf(column), way === "up"];
  axes.forEach((axis, c) => {
    const spans = (address.get(prefix + axis.name) || "").split(",").filter(Boolean).map(s => s.split("..").map(Number));
    if (spans.length) state.ranges[c] = spans;
  });
  return { prefix, state, update, choose, heat, setRange, colorOf, turnOf, paint, listeners };
}

// A folder of the records: a link where the page was opened as a file; a server of the report alone has none.
const link = (text, href) => location.protocol === "file:" ? make("a", { href, textContent: text }) : text;

const unpack = text => new Uint16Array(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
const fractions = text => Float32Array.from(unpack(text), u => u === 65535 ? NaN : u / 65534);
const halves = text => { const bits = Uint32Array.from(unpack(text), u => u === 65535 ? 0x7fc00000 : u << 16); return new Float32Array(bits.buffer); };

// The charts of one part: dots with intervals, curves, axes. They follow the board and tell it what is pointed at and brushed.
function openCharts(section, part, board) {
  const { explore } = part, { state } = board, said = find(".said", section), holders = { dots: find(".chart.dots", section), curves: find(".chart.curves", section), axes: find(".chart.axes", section) };
  const shownAs = explore.share ? x => percent(x, explore.decimals) : x => fixed(x, explore.decimals);
  const values = { acc: explore.acc.map(fractions), loss: explore.losses.map(halves) };
  const trialsOf = new Map();
  explore.trials.forEach(([point], t) => trialsOf.set(point, [...(trialsOf.get(point) || []), t]));
  const score = p => explore.points[p][2];
  const charts = {};
  let metric = address.get(`${board.prefix}metric`) || "acc";
  const press = value => {
    metric = value;
    all(".metric button", section).forEach(b => { b.ariaPressed = String(b.value === metric); });
    keep(`${board.prefix}metric`, metric === "acc" ? "" : metric);
  };
  const open = kind => {
    const chart = echarts.init(holders[kind], null, { renderer: "canvas" });
    new ResizeObserver(() => chart.resize()).observe(holders[kind]);
    chart.on("mouseout", () => { board.heat(null); });
    charts[kind] = chart;
    return chart;
  };
  const ink = () => ({ text: color("--ink"), muted: color("--muted"), line: color("--line") });
  // No axis of shares goes beyond the whole, as one would whose next tick does: ticks are up to 0.3 of the range apart.
  const topOfShares = found => found.max + (0.3 * (found.max - found.min) || found.max / 2) > 1 ? 1 : null;
  const valueAxis = (more = {}) => ({ type: "value", scale: true, max: explore.share ? topOfShares : null, axisLine: { show: false }, splitLine: { lineStyle: { color: ink().line } }, axisLabel: { color: ink().text, formatter: explore.share ? x => `${+(100 * x).toFixed(2)}%` : undefined }, ...more });
  const inside = () => explore.ends ? { min: 0, max: above(explore.ends[1]) } : {};  // what exploded hides nothing
  const still = { animation: false, textStyle: { fontFamily: "system-ui, sans-serif" } };

  const dotted = () => {
    const measured = state.shown.filter(r => score(r.point) !== null), best = measured.slice(0, MOST_DOTS).map(r => r.point);
    find(".dotted", section).textContent = best.length < measured.length ? `Its first ${best.length} of ${measured.length.toLocaleString("en")} rows. ` : "";
    return [...best, ...state.chosen.filter(p => score(p) !== null && !best.includes(p))];
  };
  // Its lines have a height of their own: else it is the width of a Chinese sign, which is little where no font has one.
  const drawDots = () => {
    const points = dotted(), longest = Math.max(...points.map(p => explore.points[p][1].length));
    const words = Math.round(Math.min(440, 6.5 * longest, Math.max(130, 0.36 * holders.dots.clientWidth)));
    const inLine = Math.floor(words / 6.5), name = p => { const whole = explore.points[p][1], most = Math.max(whole.length <= inLine + 1 ? inLine + 1 : 0, 3 * inLine - 6); return whole.length > most ? `${whole.slice(0, most)}...` : whole; };
    const lines = longest <= inLine + 1 ? 1 : Math.max(2, ...points.map(p => Math.ceil(1.1 * name(p).length / inLine)));  // a name that has no room on one line is folded
    holders.dots.style.height = `${70 + (lines > 1 ? 10 + LINE_PX * lines : 25) * points.length}px`;
    charts.dots.resize();
    const dot = (offset, first, symbol, hollow) => points.flatMap((p, y) => {
      const [mean, low, high] = explore.points[p].slice(first, first + 3), c = board.colorOf(p) || color("--muted");
      return mean === null ? [] : [{ value: [mean, y, low ?? mean, high ?? mean, offset], point: p, color: c, hollow, symbol }];
    });
    const render = (params, api) => {
      const item = dots[params.dataIndex], [x, y] = api.coord([item.value[0], item.value[1]]), shift = item.value[4];
      const [low] = api.coord([item.value[2], 0]), [high] = api.coord([item.value[3], 0]), fill = item.hollow ? color("--paper") : item.color;
      const mark = item.symbol === "circle" ? { type: "circle", shape: { cx: x, cy: y + shift, r: 4 } } : { type: "polygon", shape: { points: [[x, y + shift - 4], [x + 4, y + shift], [x, y + shift + 4], [x - 4, y + shift]] } };
      return { type: "group", children: [{ type: "line", shape: { x1: low, y1: y + shift, x2: high, y2: y + shift }, style: { stroke: item.color, lineWidth: 1.3 } }, { ...mark, style: { fill, stroke: item.color, lineWidth: 1.5 } }] };
    };
    const dots = [...dot(-4, 2, "circle", false), ...dot(4, 5, "diamond", true)];
    charts.dots.setOption({
      ...still, grid: { left: words + 20, right: 20, top: 12, bottom: 40 },
      tooltip: { backgroundColor: color("--paper"), textStyle: { color: color("--ink") }, formatter: x => tip(dots[x.dataIndex].point) },
      xAxis: valueAxis({ ...inside(), name: explore.objective, nameLocation: "middle", nameGap: 24, nameTextStyle: { color: ink().text } }),
      yAxis: { type: "category", inverse: true, data: points.map(name), axisTick: { show: false }, axisLine: { show: false }, axisLabel: { color: ink().text, interval: 0, width: words, overflow: "break", lineHeight: LINE_PX } },
      series: [{ type: "custom", renderItem: render, dimensions: ["mean", "row", "low", "high"], encode: { x: [0, 2, 3], y: 1 }, data: dots.map(d => d.value), clip: explore.ends !== null }],
    }, true);
    charts.dots.points = dots.map(d => d.point);
  };
  const tip = p => {
    const [, words, val, low, high, test, testLow, testHigh] = explore.points[p], box = make("div"), span = (a, b) => a === null || a === undefined ? "" : ` (${shownAs(a)} to ${shownAs(b)})`;
    box.append(make("b", { textContent: words }));
    if (val !== null) box.append(make("div", { textContent: `validation ${shownAs(val)}${span(low, high)}` }));
    if (test !== null) box.append(make("div", { textContent: `test ${shownAs(test)}${span(testLow, testHigh)}` }));
    box.append(make("div", { textContent: "click: choose it" }));
    return box.outerHTML;
  };

  const drawCurves = () => {
    const [train, val] = values[metric], points = [...new Set([...state.chosen, ...state.shown.map(r => r.point)])];
    const colored = points.filter(p => board.colorOf(p)), others = points.filter(p => !board.colorOf(p));
    const wanted = [...colored, ...others].flatMap(p => (trialsOf.get(p) || []).map(t => [p, t])).slice(0, MOST_LINES);
    // A configuration of several trials is their mean, with each of them thin behind it.
    const curve = (p, t, kind) => Array.from((kind === "val" ? val : train).subarray(explore.start[t], explore.start[t + 1]), (y, e) => [e + 1, Number.isNaN(y) ? null : y]);
    const meanOf = (p, kind) => {
      const ys = trialsOf.get(p).map(t => curve(p, t, kind));
      return Array.from({ length: Math.max(...ys.map(y => y.length)) }, (_, e) => ys.map(y => y[e] && y[e][1]).filter(y => y !== null && y !== undefined)).map((found, e) => [e + 1, found.length ? found.reduce((a, b) => a + b) / found.length : null]);
    };
    const several = p => (trialsOf.get(p) || []).length > 1;
    const lineOf = (p, t, kind, points, width, opacity) => {
      const c = board.colorOf(p) || ink().muted, mark = board.colorOf(p) && opacity === 1 ? MARKS[board.turnOf(p)] : "", apart = Math.ceil(points.length / 6);
      return { id: `${kind}${t ?? `mean${p}`}`, type: "line", data: points, point: p, trial: t, triggerLineEvent: true, showSymbol: points.length === 1 || mark !== "", symbolSize: mark ? 8 : 5, symbol: mark ? (_, at) => at.dataIndex % apart === Math.floor(apart / 2) ? mark : "none" : undefined, showAllSymbol: mark !== "", z: !board.colorOf(p) ? 1 : t === undefined ? 4 : 3,
        lineStyle: { color: c, width, type: kind === "val" ? "solid" : "dashed", opacity }, itemStyle: { color: c }, emphasis: { lineStyle: { width: Math.max(width, 1.5) + 1, opacity: 1 } } };
    };
    const single = ([p, t]) => {
      const line = kind => lineOf(p, t, kind, curve(p, t, kind), ...(!board.colorOf(p) ? [1, 0.35] : several(p) ? [1, 0.35] : kind === "val" ? [2, 1] : [1, 0.7]));
      return board.colorOf(p) && !several(p) ? [line("train"), line("val")] : [line("val")];
    };
    const means = colored.filter(several).flatMap(p => [lineOf(p, undefined, "train", meanOf(p, "train"), 1.2, 0.8), lineOf(p, undefined, "val", meanOf(p, "val"), 2.5, 1)]);
    const lines = [...wanted.flatMap(single), ...means];
    const top = metric === "acc" ? undefined : ceiling(lines), all_n = points.reduce((n, p) => n + (trialsOf.get(p) || []).length, 0);
    charts.curves.lines = lines;
    charts.curves.setOption({
      ...still, grid: { left: 56, right: 20, top: 14, bottom: 42 },
      xAxis: { type: "value", min: 1, max: "dataMax", minInterval: 1, name: "epoch", nameLocation: "middle", nameGap: 26, nameTextStyle: { color: ink().text }, axisLabel: { color: ink().text }, splitLine: { show: false } },
      yAxis: metric === "acc" ? { ...valueAxis(), max: topOfShares, axisLabel: { color: ink().text, formatter: x => `${+(100 * x).toFixed(1)}%` } } : { ...valueAxis(), axisLabel: { color: ink().text, formatter: undefined }, max: top },
      series: lines,
    }, true);
    find(".lines", section).textContent = `${metric === "acc" ? "Accuracy" : "Loss"}: validation solid, training dashed${means.length ? "; bold the mean of a configuration, thin its trials" : ", a line a trial"}.${wanted.length < all_n ? ` ${wanted.length} of ${all_n.toLocaleString("en")} trials, in the order of the table; choose rows to see theirs.` : ""}${cutAt(top, lines)}${uncolored(state)}`;
  };
  const uncolored = ({ chosen }) => {
    const most = PALETTE * MARKS.length;
    return chosen.length > most ? ` Of ${chosen.length} chosen rows the first ${most} have a look of their own; the others are grey.` : chosen.length > PALETTE ? " From the eighth chosen row on colours come again, with marks." : "";
  };
  const ceiling = lines => {  // what diverged hides nothing
    const ys = lines.flatMap(l => l.data.map(d => d[1]).filter(y => y !== null)).sort((a, b) => a - b), usual = n => ys[Math.floor(0.95 * (n - 1))];
    let n = ys.length;
    while (n && ys[n - 1] > 2 * usual(n)) n = Math.floor(0.95 * (n - 1)) + 1;
    return n < ys.length ? above(ys[n - 1]) : undefined;
  };

  const cutAt = (top, lines) => {
    const n = new Set(lines.filter(l => l.data.some(d => d[1] > top)).map(l => l.point)).size;
    return n ? ` The axis ends at ${top}, which ${n === 1 ? "one configuration exceeds" : `${n} configurations exceed`} in some epochs.` : "";
  };

  const drawAxes = () => {
    const named = [...explore.axes, { name: `validation ${explore.objective}`, log: false }], rows = state.found.filter(r => score(r.point) !== null);
    charts.axes.points = rows.map(r => r.point);
    charts.axes.setOption({
      ...still, parallel: { left: 70, right: 90, top: 36, bottom: 18, axisExpandable: false },
      parallelAxis: named.map((axis, dim) => ({ dim, id: `axis${dim}`, name: axis.name, type: axis.log ? "log" : "value", scale: true, realtime: false, max: dim === named.length - 1 && explore.share ? topOfShares : null, ...(dim === named.length - 1 ? inside() : {}), nameTextStyle: { color: ink().text }, axisLabel: { color: ink().text, ...(dim < named.length - 1 ? { margin: -8, align: "right" } : {}), textBorderColor: color("--paper"), textBorderWidth: 3, formatter: dim === named.length - 1 && explore.share ? x => `${+(100 * x).toFixed(1)}%` : x => String(+x.toPrecision(3)) }, axisLine: { lineStyle: { color: ink().muted } }, areaSelectStyle: { color: color("--accent"), opacity: 0.25, borderColor: color("--accent") } })),
      series: [{ type: "parallel", smooth: false, lineStyle: { width: 1, opacity: 0.35, color: ink().muted }, inactiveOpacity: 0.04, activeOpacity: 0.6, progressive: 500,
        data: rows.map(r => ({ value: explore.columns.map(c => c[r.point]), ...(board.colorOf(r.point) ? { lineStyle: { color: board.colorOf(r.point), type: DASHES[board.turnOf(r.point)], width: 2.5, opacity: 0.95 } } : {}) })) }],
    }, true);
    Object.entries(state.ranges).forEach(([dim, intervals]) => charts.axes.dispatchAction({ type: "axisAreaSelect", parallelAxisId: `axis${dim}`, intervals, quiet: true }));
    charts.axes.setOption({});  // the axes draw the bands of ranges that they were given not at once but when they are next drawn
  };

  open("dots");
  charts.dots.on("mouseover", x => board.heat(charts.dots.points[x.dataIndex]));
  charts.dots.on("click", x => board.choose(charts.dots.points[x.dataIndex]));
  if (holders.curves) {
    open("curves");
    charts.curves.on("mouseover", x => { const l = charts.curves.lines[x.seriesIndex]; if (l) { state.trial = l.trial; board.heat(l.point); if (l.trial === undefined) sayMean(l); else say(l.trial); } });
    charts.curves.on("click", x => board.choose(charts.curves.lines[x.seriesIndex].point));
    all(".metric button", section).forEach(b => { b.onclick = () => { press(b.value); drawCurves(); }; });
    press(metric);
  }
  if (holders.axes) {
    open("axes");
    charts.axes.on("mouseover", x => board.heat(charts.axes.points[x.dataIndex]));
    let brushed = false;  // by the click that goes on to a line below
    charts.axes.on("click", x => { if (x.dataIndex !== undefined && !brushed) board.choose(charts.axes.points[x.dataIndex]); });
    // Told when a drag has ended (realtime: false): drawing the axes again in its middle ends it.
    charts.axes.on("axisareaselected", x => { if (!x.quiet) { brushed = true; setTimeout(() => { brushed = false; board.setRange(+x.parallelAxisId.slice(4), x.intervals || []); }); } });
  }
  const say = t => {
    const [p, run, id] = explore.trials[t], [from, to] = [explore.start[t], explore.start[t + 1]], ys = values[metric][1].subarray(from, to);
    const last = ys.length ? ys[ys.length - 1] : NaN, text = Number.isNaN(last) ? "" : `: ${metric === "acc" ? percent(last) : last.toPrecision(2)} on validation after epoch ${ys.length}`;
    said.textContent = `${explore.points[p][1]}, ${run} (${id})${text}`;
  };
  const sayMean = line => {
    const [epoch, y] = line.data.at(-1), kind = line.id.startsWith("train") ? "training" : "validation", trials = trialsOf.get(line.point);
    const there_n = trials.filter(t => explore.start[t + 1] - explore.start[t] >= epoch).length;  // the others had ended
    said.textContent = `${explore.points[line.point][1]}, mean of ${there_n < trials.length ? `${there_n} of ` : ""}${trials.length} trials${y === null ? "" : `: ${metric === "acc" ? percent(y) : y.toPrecision(2)} on ${kind} after epoch ${epoch}`}`;
  };
  let brushing = false;
  board.listeners.push(what => {
    if (what === "hot") {
      if (charts.curves) charts.curves.lines.forEach((l, n) => charts.curves.dispatchAction({ type: l.point === state.hot ? "highlight" : "downplay", seriesIndex: n }));
      if (charts.axes) charts.axes.dispatchAction({ type: "downplay", seriesIndex: 0 });
      if (charts.axes && state.hot !== null) charts.axes.dispatchAction({ type: "highlight", seriesIndex: 0, dataIndex: charts.axes.points.indexOf(state.hot) });
      if (state.hot !== null && state.trial === undefined) said.textContent = explore.points[state.hot][1];
      state.trial = undefined;
      return;
    }
    if (brushing) return;
    brushing = true;
    drawDots();
    if (charts.curves) drawCurves();
    if (charts.axes) drawAxes();
    brushing = false;
  });
  themed.push(() => { board.paint(); board.listeners.forEach(f => f("rows")); });
}

data.parts.forEach((part, n) => {
  const section = find(`[data-part="${n}"]`), first = find(".figures.first", section);
  if (first) find("details .figures", section).prepend(...first.children);  // the dots show the same
  if (!part.rows.length) return;
  if (part.explore) part.explore.columns = [...part.explore.axes.map(a => a.values), part.explore.points.map(p => p[2])];
  const board = openBoard(section, part, data.parts.length > 1 ? `${n + 1}.` : "");
  if (part.explore) openCharts(section, part, board);
  board.update();
});

const filters = all("input.filter");
addEventListener("keydown", e => { if (e.key === "/" && e.target.tagName !== "INPUT" && filters.length) { e.preventDefault(); filters[0].focus(); } });
all(".copier").forEach(b => { b.onclick = () => navigator.clipboard.writeText(find("code", b.parentNode).textContent).then(() => { b.textContent = "copied"; }); });
const dialog = find("dialog"), figures = all("figure > button");
let shown = 0;
const show = n => { shown = (n + figures.length) % figures.length; dialog.replaceChildren(find("svg", figures[shown]).cloneNode(true), find("figcaption", figures[shown].parentNode).cloneNode(true)); if (!dialog.open) dialog.showModal(); };
figures.forEach((f, n) => { f.onclick = () => show(n); });
dialog.onclick = e => { if (!e.target.closest("a")) dialog.close(); };
dialog.onkeydown = e => { if (e.key === "ArrowRight") show(shown + 1); if (e.key === "ArrowLeft") show(shown - 1); };
