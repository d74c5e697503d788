"use strict";
// Whatever comes from runs is put on the page as text: there is no markup made of strings in this file.
const at = (id) => document.getElementById(id);
const COLOURS = 7;
const DASHES = 3;
const CHART = { width: 420, height: 214, left: 50, right: 410, top: 10, bottom: 180 };
const FIRST = 4; // runs that are drawn when nobody has chosen any
const USUAL = ["loss", "rankme", "rankme_centred", "spread", "learning_rate", "samples_per_second"];
const WORDS = { rankme: "RankMe", rankme_centred: "RankMe, mean off", samples_per_second: "samples a second", lidar: "LiDAR", learning_rate: "learning rate" };
const known = { rows: [], text: "", tag: "", curves: {}, drawn: "", details: null, shape: "" };
const view = { picked: new Map(), touched: false, columns: [], figures: null, sort: "written", down: true };

function make(name, attributes = {}, ...children) {
  const svg = ["svg", "path", "circle", "text", "g", "title"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// ---------------------------------------------------------------- words and numbers

function short(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  for (const [bound, divisor, suffix] of [[1e9, 1e9, "G"], [1e6, 1e6, "M"], [1e4, 1e3, "k"]]) {
    if (size >= bound) return Number((value / divisor).toPrecision(3)) + suffix;
  }
  if (size > 0 && size < 1e-3) return value.toExponential(1).replace(".0e", "e");
  return String(Number(value.toPrecision(4)));
}
const score = (value) => (typeof value !== "number" ? "–" : Math.abs(value) < 10 ? value.toFixed(3) : short(value));
const title = (name) => { const words = WORDS[name] ?? name.replaceAll("_", " "); return words[0].toUpperCase() + words.slice(1); };
const said = (value) => (Array.isArray(value) ? value.map(said).join(", ") : typeof value === "number" ? String(Number(value.toPrecision(6))) : value === null || value === undefined ? "–" : String(value));

function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${Math.round(seconds / 86400)} days`;
}
const ago = (written) => (written ? `${duration(Math.max(0, Date.now() / 1000 - written))} ago` : "–");
const best = (row) => row.scores?.find((one) => one.probe === "linear") ?? row.scores?.[0];
const named = (key) => key.trim().toLowerCase().replaceAll("-", "_").replaceAll(" ", "_");

function value(row, key) {
  const own = { progress: row.steps ? row.step / row.steps : null, health: row.health?.words, score: best(row)?.value };
  if (key in own) return own[key] ?? null;
  if (["run", "state", "recipe", "domain", "data", "step", "steps", "written", "skipped"].includes(key)) return row[key] ?? null;
  if (row.figures && key in row.figures) return row.figures[key];
  const found = Object.keys(row.fields ?? {}).find((name) => name === key || named(name) === named(key));
  return found === undefined ? null : row.fields[found];
}

// ---------------------------------------------------------------- the table of runs

const COLUMNS = [
  { key: "run", words: "run", cell: nameCell },
  { key: "state", words: "state", cell: (row) => make("td", {}, make("span", { class: `badge ${safe(row.state)}`, title: row.problem ?? "" }, row.state)) },
  { key: "recipe", words: "recipe", cell: textCell("recipe") },
  { key: "data", words: "data", cell: textCell("data") },
  { key: "progress", words: "progress", cell: progressCell },
  { key: "loss", words: "loss", number: true },
  { key: "rankme", words: "RankMe", number: true },
  { key: "health", words: "health", cell: healthCell },
  { key: "samples_per_second", words: "samples/s", number: true },
  { key: "score", words: "score", number: true, cell: scoreCell },
  { key: "written", words: "last row", number: true, cell: (row) => make("td", { class: "number", title: row.written ? new Date(row.written * 1000).toLocaleString() : "" }, ago(row.written)) },
];
const STATES = ["training", "finished", "stopped", "died", "imported", "unreadable"];
const safe = (state) => (STATES.includes(state) ? state : "");
const columns = () => [...COLUMNS, ...view.columns.map((key) => ({ key, words: title(key), number: true, extra: true }))];
const figureCell = (column) => (row) => { const found = value(row, column.key); return make("td", { class: typeof found === "number" || found === null ? "number" : "text", title: said(found) }, typeof found === "number" ? short(found) : said(found)); };
function textCell(key) { return (row) => make("td", { class: "text", title: row[key] ?? "" }, row[key] ?? ""); }
function nameCell(row) { return make("td", { class: "name", title: row.path }, make("a", { href: `#run/${encodeURIComponent(row.run)}` }, row.run)); }

function progressCell(row) {
  if (!row.steps) return make("td");
  const left = row.state === "training" && row.figures.seconds_per_step ? (row.steps - row.step) * row.figures.seconds_per_step : 0;
  const words = `${row.step.toLocaleString("en")} of ${row.steps.toLocaleString("en")}${left ? `, ${duration(left)} left` : ""}`;
  return make("td", {}, make("progress", { max: row.steps, value: Math.min(row.step, row.steps), "aria-hidden": "true" }), words);
}

function healthCell(row) {
  if (!row.health || row.health.tone === "unknown") return make("td", { class: "text" }, "–");
  return make("td", { title: row.health.words }, make("span", { class: `badge ${row.health.tone}` }, row.health.words.split(":")[0].slice(0, 40)));
}

function scoreCell(row) {
  const found = best(row);
  if (!found) return make("td", { class: "number" }, "–");
  return make("td", { class: "number", title: `${found.probe} ${found.metric} on ${found.data ?? "its data"}; untrained ${score(found.untrained)}, raw input ${score(found.raw)}` }, make("span", { class: "note" }, `${found.probe} `), score(found.value));
}

const SHAPE = /^([^<>=:]+)(<=|>=|<|>|=|:)(.+)$/;

function wanted(row) {
  for (const [id, key] of [["recipe", "recipe"], ["domain", "domain"], ["state", "state"]]) {
    if (at(id).value && row[key] !== at(id).value) return false;
  }
  const all = [row.run, row.recipe, row.data, row.domain, row.state, row.health?.words].join("\n").toLowerCase();
  return at("words").value.toLowerCase().split(/\s+/).filter(Boolean).every((word) => {
    const asked = SHAPE.exec(word);
    if (!asked) return all.includes(word);
    const found = value(row, named(asked[1]));
    if (found === null) return false;
    const [mine, other] = [Number(found), Number(asked[3])];
    switch (asked[2]) {
      case "<": return mine < other;
      case ">": return mine > other;
      case "<=": return mine <= other;
      case ">=": return mine >= other;
      case "=": return said(found).toLowerCase() === asked[3] || (typeof found === "number" && mine === other);
      default: return said(found).toLowerCase().includes(asked[3]);
    }
  });
}

function compare(first, second) {
  const [a, b] = [value(first, view.sort), value(second, view.sort)];
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === "number" && typeof b === "number" ? a - b : said(a).localeCompare(said(b), "en", { numeric: true });
  return view.down ? -order : order;
}
const shown = () => known.rows.filter(wanted).sort((a, b) => compare(a, b) || a.run.localeCompare(b.run));

function heading(column) {
  const sorted = view.sort === column.key;
  const sort = () => { view.down = sorted ? !view.down : Boolean(column.number || column.key === "progress"); view.sort = column.key; keep(); table(); };
  const away = () => { view.columns = view.columns.filter((key) => key !== column.key); keep(); table(); };
  return make("th", { scope: "col", class: column.number ? "number" : "", "aria-sort": sorted ? (view.down ? "descending" : "ascending") : null },
    make("button", { type: "button", click: sort, "data-sort": column.key }, column.words + (sorted ? (view.down ? " ↓" : " ↑") : "")),
    column.extra ? make("button", { type: "button", class: "away", "aria-label": `leave out ${column.words}`, click: away }, "×") : null);
}

const lines = new Map(); // of each run its table row and what it was made of

function line(row) {
  const colour = view.picked.get(row.run);
  const made = JSON.stringify([row, colour, view.columns, row.state === "training" ? 0 : ago(row.written)]);
  const old = lines.get(row.run);
  if (old && old.made === made) return old.element;
  const pick = make("input", { type: "checkbox", "aria-label": `draw ${row.run}`, change: () => { choose(row.run, pick.checked); } });
  pick.checked = colour !== undefined;
  const cells = columns().map((column) => (column.cell ?? figureCell(column))(row));
  const element = old?.element ?? make("tr", { "data-run": row.run });
  const focused = old && element.querySelector("input") === document.activeElement;
  element.replaceChildren(make("td", { class: "pick" }, make("label", {}, pick, make("span", { class: `swatch ${look(colour)}` }))), ...cells);
  if (focused) pick.focus();
  lines.set(row.run, { element, made });
  return element;
}

function table() {
  const rows = shown();
  const all = rows.length > 0 && rows.every((row) => view.picked.has(row.run));
  const every = make("input", { type: "checkbox", "aria-label": "draw all shown", change: () => { rows.forEach((row) => choose(row.run, !all, false)); keep(); refresh(); } });
  every.checked = all;
  const shape = JSON.stringify([view.sort, view.down, view.columns, all, rows.map((row) => row.run)]);
  const elements = rows.map(line);
  if (shape !== known.shape) {
    known.shape = shape;
    const focus = document.activeElement?.dataset?.sort;
    at("runs").tHead.replaceChildren(make("tr", {}, make("th", { class: "pick", scope: "col" }, every), ...columns().map(heading)));
    at("runs").tBodies[0].replaceChildren(...elements);
    if (focus) at("runs").querySelector(`[data-sort="${CSS.escape(focus)}"]`)?.focus();
  }
  const clear = make("button", { type: "button", click: () => { view.picked.clear(); view.touched = true; keep(); refresh(); } }, "draw none");
  at("count").replaceChildren(known.rows.length
    ? `${rows.length === known.rows.length ? rows.length : `${rows.length} of ${known.rows.length}`} runs, ${view.picked.size} drawn below`
    : "No runs yet: this page shows them as soon as one begins.", ...(view.picked.size ? [clear] : []));
}

function options() {
  for (const [id, first] of [["recipe", "all"], ["domain", "all"], ["state", "all"]]) {
    fill(at(id), first, [...new Set(known.rows.map((row) => row[id]).filter(Boolean))].sort().map((one) => [one, one]));
  }
  const there = new Set(COLUMNS.map((column) => column.key).concat(view.columns));
  const figures = new Set(known.rows.flatMap((row) => Object.keys(row.figures ?? {})));
  const fields = new Set(known.rows.flatMap((row) => Object.keys(row.fields ?? {})));
  fill(at("column"), "add …", [...figures, ...fields].filter((key) => !there.has(key)).map((key) => [key, title(key)]));
}

function fill(select, first, entries) {
  const made = JSON.stringify(entries);
  if (select.dataset.made === made) return;
  const old = select.value;
  select.dataset.made = made;
  select.replaceChildren(make("option", { value: "" }, first), ...entries.map(([key, words]) => make("option", { value: key }, words)));
  select.value = entries.some(([key]) => key === old) ? old : "";
}

// ---------------------------------------------------------------- choosing runs

const look = (colour) => (colour === undefined ? "" : `c${colour % COLOURS} dash${Math.floor(colour / COLOURS) % DASHES}`);

function choose(run, on, now = true) {
  view.touched = true;
  if (!on) view.picked.delete(run);
  else if (!view.picked.has(run)) {
    const taken = new Set(view.picked.values());
    let free = 0;
    while (taken.has(free)) free += 1;
    view.picked.set(run, free);
  }
  if (now) { keep(); refresh(); }
}

function begin() {
  if (view.touched || view.picked.size) return;
  const drawable = known.rows.filter((row) => row.figures && Object.keys(row.figures).length);
  const order = (row) => (row.state === "training" ? 1e12 : 0) + (row.written ?? 0);
  drawable.sort((a, b) => order(b) - order(a)).slice(0, FIRST).forEach((row, colour) => view.picked.set(row.run, colour));
}

function alone() {
  const found = /^#run\/(.+)$/.exec(location.hash);
  try { return found ? decodeURIComponent(found[1]) : null; } catch { return null; }
}

/** The runs that are drawn, each with its colour. */
function drawn() {
  const one = alone();
  const rows = new Map(known.rows.map((row) => [row.run, row]));
  const picked = one === null ? [...view.picked] : [[one, 0]];
  return picked.filter(([run]) => rows.has(run)).slice(0, COLOURS * DASHES).map(([run, colour]) => ({ row: rows.get(run), colour }));
}

// ---------------------------------------------------------------- curves

function step(low, high) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough * (1 - 1e-9));
}

function axis(values, start, end, { log = false, rounded = false } = {}) {
  const good = values.filter((one) => one !== null && (!log || one > 0));
  if (!good.length) return null;
  let [low, high] = good.reduce(([a, b], one) => [Math.min(a, one), Math.max(b, one)], [Infinity, -Infinity]);
  if (high - low <= Math.max(1e-9 * Math.abs(high), 1e-30)) {
    const either = Math.abs(high) / 10 || 1;
    [low, high] = log ? [low / 2, high * 2] : [low - either, high + either];
  }
  const clean = (one) => Number(one.toPrecision(12));
  for (let turn = 0; rounded && !log && turn < 3; turn += 1) {
    const one = step(low, high);
    [low, high] = [clean(Math.floor(low / one + 1e-9) * one), clean(Math.ceil(high / one - 1e-9) * one)];
  }
  const scale = log ? Math.log10 : (one) => one;
  const place = (one) => start + ((scale(one) - scale(low)) / (scale(high) - scale(low))) * (end - start);
  const back = (unit) => low + ((unit - start) / (end - start)) * (high - low);
  let ticks = [];
  const even = () => {
    const one = step(low, high);
    const found = [];
    for (let number = Math.ceil(low / one - 1e-9); number <= Math.floor(high / one + 1e-9); number += 1) found.push(clean(number * one));
    return found;
  };
  if (log) {
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) ticks.push(10 ** power);
    const inside = ticks.filter((one) => one >= low && one <= high);
    const finer = ticks.flatMap((one) => [one, 2 * one, 5 * one]).filter((one) => one >= low && one <= high);
    ticks = inside.length > 5 ? inside.filter((_, number) => number % Math.ceil(inside.length / 5) === 0) : inside.length > 1 ? inside : finer.length > 1 ? finer : even();
  } else ticks = even();
  return { low, high, place, back, ticks };
}

function scaleOf(along, longest) {
  if (along !== "time") return [1, { step: "step", epoch: "epoch", samples: "samples seen" }[along]];
  return longest > 7200 ? [3600, "hours of training"] : longest > 120 ? [60, "minutes of training"] : [1, "seconds of training"];
}

function path(xs, ys, x, y, log) {
  let words = "";
  let pen = "M";
  xs.forEach((one, number) => {
    if (ys[number] === null || (log && ys[number] <= 0)) pen = "M";
    else {
      // a point between two gaps would be invisible without a length
      const lonely = pen === "M" && (number + 1 >= xs.length || ys[number + 1] === null);
      words += `${pen}${x.place(one).toFixed(1)} ${y.place(ys[number]).toFixed(1)}${lonely ? "h0.01" : ""}`;
      pen = "L";
    }
  });
  return words;
}

const cursors = []; // of each chart, what shows it at a place of x

function chart(field, series, log, along) {
  const xs = series.flatMap((one) => one.x);
  const ys = series.flatMap((one) => [...one.y, ...(one.smooth_y ?? [])]);
  const [unit, xName] = scaleOf(along, xs.reduce((a, b) => Math.max(a, b), 0));
  const x = axis(xs.map((one) => one / unit), CHART.left, CHART.right);
  const y = axis(ys, CHART.bottom, CHART.top, { log, rounded: true });
  const figure = make("figure", { class: "chart", "data-field": field });
  const caption = make("figcaption", {}, make("strong", {}, title(field)));
  figure.append(caption);
  if (!x || !y) {
    figure.append(make("p", { class: "note" }, log ? "Nothing above zero to draw on a logarithmic scale." : "No finite value yet."));
    return figure;
  }
  const last = (one) => one.y.findLast((value) => value !== null);
  if (series.length <= 3) caption.append(...series.map((one) => make("span", { class: "key" }, make("i", { class: `swatch ${look(one.colour)}` }), make("b", {}, short(last(one))))));
  const described = series.map((one) => `${one.run} ${short(last(one))}`).join("; ");
  const svg = make("svg", { viewBox: `0 0 ${CHART.width} ${CHART.height}`, role: "img", "aria-label": `${title(field)} over ${xName}: at the end ${described}` });
  for (const tick of y.ticks) svg.append(make("path", { class: "rule", d: `M${CHART.left} ${y.place(tick).toFixed(1)}H${CHART.right}` }), make("text", { class: "end", x: CHART.left - 7, y: (y.place(tick) + 4).toFixed(1) }, short(tick)));
  svg.append(make("path", { class: "axis", d: `M${CHART.left} ${CHART.bottom}H${CHART.right}` }));
  for (const tick of x.ticks) svg.append(make("text", { class: "middle", x: x.place(tick).toFixed(1), y: CHART.bottom + 17 }, short(tick)));
  svg.append(make("text", { class: "end", x: CHART.right, y: CHART.bottom + 31 }, xName));
  const scaled = series.map((one) => ({ ...one, x: one.x.map((value) => value / unit), smooth_x: one.smooth_x?.map((value) => value / unit) }));
  for (const one of scaled) {
    if (one.smooth_y) svg.append(make("path", { class: `line raw ${look(one.colour)}`, d: path(one.x, one.y, x, y, log) }), make("path", { class: `line ${look(one.colour)}`, "data-run": one.run, d: path(one.smooth_x, one.smooth_y, x, y, log) }));
    else svg.append(make("path", { class: `line ${look(one.colour)}`, "data-run": one.run, d: path(one.x, one.y, x, y, log) }));
  }
  const layer = make("g");
  svg.append(layer);
  follow(svg, layer, x, y, scaled, { log, field, xName });
  figure.append(svg);
  if (field.endsWith("loss") && new Set(series.map((one) => one.recipe)).size > 1) figure.append(make("p", { class: "note" }, "Losses of different recipes are not comparable."));
  return figure;
}

function nearest(xs, wantedX) {
  let [low, high] = [0, xs.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] < wantedX) low = middle; else high = middle;
  }
  return Math.abs(xs[low] - wantedX) <= Math.abs(xs[high] - wantedX) ? low : high;
}

function follow(svg, layer, x, y, series, { log, field, xName }) {
  const point = (place) => {
    const found = [];
    layer.replaceChildren(make("path", { class: "cursor", d: `M${x.place(place).toFixed(1)} ${CHART.top}V${CHART.bottom}` }));
    for (const one of series) {
      const [xs, ys] = one.smooth_y ? [one.smooth_x, one.smooth_y] : [one.x, one.y];
      const number = nearest(xs, place);
      // a curve says nothing beyond its ends
      if (!xs.length || ys[number] === null || (log && ys[number] <= 0) || place > xs.at(-1) + (x.high - x.low) / 50) continue;
      layer.append(make("circle", { class: `spot c${one.colour % COLOURS}`, cx: x.place(xs[number]).toFixed(1), cy: y.place(ys[number]).toFixed(1), r: 4 }));
      found.push({ run: one.run, colour: one.colour, value: ys[number] });
    }
    return found.sort((a, b) => b.value - a.value);
  };
  cursors.push({ point, clear: () => layer.replaceChildren(), low: x.low, high: x.high });
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const unit = Math.min(CHART.right, Math.max(CHART.left, ((event.clientX - box.left) * CHART.width) / box.width));
    const place = x.back(unit);
    cursors.forEach((other) => { if (place >= other.low && place <= other.high) other.point(place); else other.clear(); });
    const found = point(place);
    const rows = found.slice(0, 14).map((one) => make("p", {}, make("span", { class: `swatch ${look(one.colour)}` }), make("span", { class: "of" }, one.run), make("b", {}, short(one.value))));
    tip(event, [make("p", {}, `${title(field)} at ${xName} ${short(place)}`), ...rows]);
  });
  svg.addEventListener("pointerleave", () => { cursors.forEach((other) => other.clear()); at("tip").hidden = true; });
}

function tip(event, children) {
  const shown = at("tip");
  shown.replaceChildren(...children);
  shown.hidden = false;
  const box = shown.getBoundingClientRect();
  const left = event.clientX + 16 + box.width > innerWidth ? event.clientX - box.width - 16 : event.clientX + 16;
  shown.style.left = `${Math.max(4, left)}px`;
  shown.style.top = `${Math.max(4, Math.min(event.clientY + 12, innerHeight - box.height - 8))}px`;
}

function figuresShown(runs) {
  const there = new Set(runs.flatMap(({ row }) => Object.keys(row.figures ?? {})));
  there.delete("step");
  there.delete("epoch");
  const order = [...USUAL.filter((name) => there.has(name)), ...[...there].filter((name) => !USUAL.includes(name)).sort()];
  const chosen = view.figures ?? new Set(USUAL);
  const boxes = order.map((name) => {
    const box = make("input", { type: "checkbox", value: name, change: () => {
      view.figures = new Set(view.figures ?? USUAL);
      if (box.checked) view.figures.add(name); else view.figures.delete(name);
      keep();
      refresh();
    } });
    box.checked = chosen.has(name);
    return make("label", {}, box, title(name));
  });
  const made = JSON.stringify([order, [...chosen]]);
  if (at("fields").dataset.made !== made) {
    at("fields").dataset.made = made;
    at("fields").replaceChildren(...boxes);
  }
  return order.filter((name) => chosen.has(name));
}

async function curves() {
  const runs = drawn();
  const fields = figuresShown(runs);
  const [along, smooth, log] = [at("along").value, at("smooth").value, at("log").checked];
  legend(runs);
  const nothing = at("nothing");
  nothing.hidden = fields.length > 0;
  if (!fields.length) nothing.textContent = !runs.length ? "Choose runs in the table to see their curves side by side." : view.figures && !view.figures.size ? "Choose figures to draw." : "No step has been logged yet.";
  const asked = JSON.stringify([runs.map(({ row, colour }) => [row.run, row.version, colour]), fields, along, smooth, log]);
  if (asked === known.drawn) return;
  known.drawn = asked;
  const query = new URLSearchParams({ along, smooth });
  runs.forEach(({ row }) => query.append("run", row.run));
  fields.forEach((field) => query.append("field", field));
  const found = fields.length ? (await ask(`/api/curves?${query}`)).runs : {};
  if (known.drawn !== asked) return; // somebody chose something else meanwhile
  cursors.length = 0;
  at("charts").replaceChildren(...fields.map((field) => {
    const series = runs.filter(({ row }) => found[row.run]?.[field]).map(({ row, colour }) => ({ run: row.run, recipe: row.recipe, colour, ...found[row.run][field] }));
    return chart(field, series, log, along);
  }));
}

function legend(runs) {
  const more = alone() === null ? view.picked.size - runs.length : 0;
  const entries = runs.map(({ row, colour }) => make("li", {}, make("span", { class: `swatch ${look(colour)}` }), row.run,
    make("button", { type: "button", "aria-label": `do not draw ${row.run}`, click: () => choose(row.run, false) }, "×")));
  at("legend").hidden = alone() !== null;
  at("legend").replaceChildren(...entries, ...(more > 0 ? [make("li", {}, `and ${more} more, which are not drawn`)] : []));
}

// ---------------------------------------------------------------- labelled scores

function scores() {
  const runs = drawn();
  const groups = new Map();
  runs.forEach(({ row, colour }) => (row.scores ?? []).forEach((one) => {
    const few = one.labels_fraction ? `, ${one.labels_fraction} of the labels` : one.shots ? `, ${one.shots} labels a class` : "";
    const key = `${one.probe} ${one.metric}${few}\n${one.data ?? ""}`;
    groups.set(key, [...(groups.get(key) ?? []), { ...one, run: row.run, colour }]);
  }));
  at("scores").hidden = !groups.size;
  const made = JSON.stringify([...groups]);
  if (at("score-charts").dataset.made === made) return;
  at("score-charts").dataset.made = made;
  at("score-charts").replaceChildren(...[...groups].map(([key, rows]) => scoreChart(...key.split("\n"), rows)));
}

function scoreChart(name, data, rows) {
  const [left, right] = [14, 350];
  const numbers = rows.flatMap((one) => [one.value, one.low, one.high, one.untrained, one.raw].filter((value) => typeof value === "number"));
  const x = axis(numbers, left, right, { rounded: true });
  const height = 46 * rows.length + 26;
  const svg = make("svg", { viewBox: `0 0 ${CHART.width} ${height}`, role: "img", "aria-label": `${name}: ${rows.map((one) => `${one.run} ${score(one.value)}`).join(", ")}` });
  for (const tick of x.ticks) svg.append(make("path", { class: "rule", d: `M${x.place(tick).toFixed(1)} 6V${height - 20}` }), make("text", { class: "middle", x: x.place(tick).toFixed(1), y: height - 5 }, short(tick)));
  rows.forEach((one, number) => {
    const y = 46 * number + 32;
    svg.append(make("text", { class: "label", x: left - 10, y: y - 12 }, one.run.length > 54 ? `${one.run.slice(0, 53)}…` : one.run, make("title", {}, one.run)));
    if (typeof one.low === "number" && typeof one.high === "number") svg.append(make("path", { class: `range c${one.colour % COLOURS}`, d: `M${x.place(one.low).toFixed(1)} ${y}H${x.place(one.high).toFixed(1)}` }));
    if (typeof one.raw === "number") svg.append(make("path", { class: "cross", d: `M${(x.place(one.raw) - 4).toFixed(1)} ${y - 4}l8 8m0 -8l-8 8` }, make("title", {}, `raw input ${score(one.raw)}`)));
    if (typeof one.untrained === "number") svg.append(make("circle", { class: "ring", cx: x.place(one.untrained).toFixed(1), cy: y, r: 4 }, make("title", {}, `untrained ${score(one.untrained)}`)));
    svg.append(make("circle", { class: `c${one.colour % COLOURS}`, cx: x.place(one.value).toFixed(1), cy: y, r: 5 }), make("text", { class: "value end", x: 410, y: y + 4 }, score(one.value)));
  });
  return make("figure", { class: "chart" }, make("figcaption", {}, make("strong", {}, name), data ? make("span", { class: "key" }, `on ${data}`) : null), svg);
}

// ---------------------------------------------------------------- what differs

function differences() {
  const runs = alone() === null ? drawn() : [];
  at("differences").hidden = runs.length < 2;
  const made = JSON.stringify(runs.map(({ row, colour }) => [row.run, colour, row.recipe, row.data, row.fields]));
  if (runs.length < 2 || at("options").dataset.made === made) return;
  at("options").dataset.made = made;
  const all = runs.map(({ row }) => ({ recipe: row.recipe, data: row.data, ...row.fields }));
  const names = [...new Set(all.flatMap(Object.keys))];
  const differs = names.filter((name) => new Set(all.map((one) => JSON.stringify(one[name]))).size > 1);
  const everywhere = differs.filter((name) => all.every((one) => name in one));
  const some = differs.filter((name) => !everywhere.includes(name));
  const rows = (list) => list.map((name) => make("tr", {}, make("th", { scope: "row" }, title(name)), ...all.map((one) => make("td", {}, name.endsWith("fingerprint") ? said(one[name]).slice(0, 12) : said(one[name])))));
  const head = () => make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "option"), ...runs.map(({ row, colour }) => make("th", { scope: "col" }, make("span", { class: `swatch ${look(colour)}` }), row.run))));
  const nothing = make("tr", {}, make("th", { colspan: runs.length + 1 }, "Nothing: they were started alike."));
  at("options").replaceChildren(head(), make("tbody", {}, ...(differs.length ? rows(everywhere) : [nothing])));
  at("some").hidden = !some.length;
  at("some").querySelector("summary").textContent = `${some.length} more options, which not all of these runs have`;
  at("more-options").replaceChildren(head(), make("tbody", {}, ...rows(some)));
}

// ---------------------------------------------------------------- one run

async function single() {
  const name = alone();
  const row = known.rows.find((one) => one.run === name);
  at("overview").hidden = name !== null;
  at("run").hidden = at("report").hidden = name === null;
  at("title").textContent = name ?? "Runs";
  document.querySelector("#curves h2").textContent = name === null ? "How they learn" : "How it learns";
  if (name === null) return;
  if (!row) { at("report").hidden = true; at("run").dataset.made = ""; at("run").replaceChildren(make("p", { class: "absent" }, "There is no such run here (any more). "), make("a", { href: "#" }, "All runs")); return; }
  const { written, version, ...steady } = row;
  const made = JSON.stringify([name, steady]);
  if (at("run").dataset.made === made) return;
  const details = await ask(`/api/run?run=${encodeURIComponent(name)}`);
  if (alone() !== name) return;
  at("run").dataset.made = made;
  at("run").replaceChildren(...about(details));
  showReport(details);
}

function about(row) {
  if (!row.health) return [make("p", { class: "verdict bad" }, make("span", { class: "sign" }), make("span", {}, row.problem ?? ""))];
  const tiles = ["loss", "rankme", "rankme_centred", "spread", "samples_per_second"].filter((name) => name in row.figures);
  const facts = [row.recipe, row.data, `${row.step.toLocaleString("en")} of ${row.steps.toLocaleString("en")} steps`, `preset ${said(row.fields.preset)}`, `seed ${said(row.fields.seed)}`];
  const words = row.health.words[0].toUpperCase() + row.health.words.slice(1);
  return [
    make("p", { class: "actions" }, make("a", { href: "#" }, "← all runs"), make("span", { class: `badge ${safe(row.state)}` }, row.state), make("code", {}, row.path)),
    make("ul", { class: "facts" }, ...facts.filter(Boolean).map((fact) => make("li", {}, fact))),
    make("p", { class: `verdict ${row.health.tone}` }, make("span", { class: "sign", "aria-hidden": "true" }), make("span", {}, `While it trained: ${words}.`)),
    make("dl", { class: "figures" }, ...tiles.map((name) => make("div", {}, make("dt", {}, title(name)), make("dd", {}, short(row.figures[name]))))),
    row.warnings.length ? make("ul", { class: "note" }, ...row.warnings.map(([when, words]) => make("li", {}, `step ${said(when)}: ${words}`))) : null,
    row.skipped ? make("p", { class: "note" }, `${row.skipped} damaged samples were skipped: ${row.skipped_first.slice(0, 3).map(([sample, why]) => `${sample} (${why})`).join(", ")}${row.skipped > 3 ? " …" : ""}`) : null,
  ].filter(Boolean);
}

function showReport(row) {
  const address = `/report?run=${encodeURIComponent(row.run)}`;
  const { state, words } = row.making;
  const busy = state === "waiting" || state === "making";
  const request = async () => {
    await fetch("/api/report", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ run: row.run }) });
    poll();
  };
  const old = row.report && row.written && row.report < row.written - 1;
  const line = make("p", { class: "actions" });
  if (busy) line.append(make("span", { class: "making", role: "status" }, state === "making" ? "The report is being made; this takes from a few seconds to some minutes." : "The report waits for another one to be made."));
  else if (row.report) line.append(make("a", { href: address, target: "_blank", rel: "noopener" }, "Open it in a tab of its own"), make("span", {}, `made ${ago(row.report)}${old ? "; the run was trained further since" : ""}`), make("button", { type: "button", click: request }, "Make it again"));
  else if (row.state !== "unreadable") line.append(make("button", { type: "button", class: "main", id: "make-report", click: request }, "Make the report"), make("span", {}, row.step || row.state === "imported" ? "Masks, neighbours, spectrum and map: this run has no report yet." : "This run has no report yet; it needs a first checkpoint."));
  if (state === "failed") line.append(make("span", { class: "badge bad" }, `It could not be made: ${words}`));
  const stamp = JSON.stringify([row.run, row.report]);
  const frame = at("report").querySelector("iframe");
  const heads = [make("h2", {}, "Its report"), line];
  if (frame && frame.dataset.stamp === stamp) {
    // a frame that is put in again reads its page anew, so it is left where it is
    at("report").querySelectorAll(":scope > :not(iframe)").forEach((one) => one.remove());
    frame.before(...heads);
  } else {
    at("report").replaceChildren(...heads, ...(row.report ? [make("iframe", { src: address, title: `Report of ${row.run}`, sandbox: "allow-scripts", allow: "clipboard-write *", "data-stamp": stamp })] : []));
  }
}

// ---------------------------------------------------------------- the loop

async function ask(address) {
  const answer = await fetch(address, { cache: "no-cache" });
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return answer.json();
}

async function refresh() {
  table();
  options();
  scores();
  differences();
  await Promise.all([single(), curves()]);
}

function live(lost) {
  const training = known.rows.filter((row) => row.state === "training").length;
  at("live").className = `live ${lost ? "lost" : training ? "training" : ""}`;
  const words = lost ? "the board does not answer; is it still running?" : training ? `live: ${training} training` : "nothing is training";
  if (at("live").textContent !== words) at("live").textContent = words;
}

let timer = 0;
let turn = 0;
async function poll() {
  clearTimeout(timer);
  const mine = (turn += 1);
  try {
    const answer = await ask("/api/runs");
    if (mine !== turn) return;
    known.rows = answer.runs;
    at("folder").textContent = answer.folder;
    begin();
    live(false);
    await refresh();
  } catch (problem) {
    if (mine !== turn) return;
    known.drawn = "";
    live(true);
  }
  const busy = known.rows.some((row) => row.state === "training" || ["waiting", "making"].includes(row.making?.state));
  if (mine === turn) timer = setTimeout(() => { if (!document.hidden) poll(); }, busy ? 1500 : 4000);
  document.documentElement.dataset.ready = "yes";
}

function keep() {
  const query = new URLSearchParams();
  if (view.touched) query.set("draw", JSON.stringify([...view.picked]));
  if (view.columns.length) query.set("columns", JSON.stringify(view.columns));
  if (view.figures) query.set("figures", JSON.stringify([...view.figures]));
  if (view.sort !== "written" || !view.down) query.set("sort", `${view.down ? "-" : ""}${view.sort}`);
  for (const id of ["words", "recipe", "domain", "state", "along", "smooth"]) if (at(id).value && at(id).value !== "0" && at(id).value !== "step") query.set(id, at(id).value);
  if (at("log").checked) query.set("log", "1");
  history.replaceState(null, "", `${location.pathname}${query.size ? `?${query}` : ""}${location.hash}`);
}

function restore() {
  const query = new URLSearchParams(location.search);
  const list = (name) => { try { const found = JSON.parse(query.get(name)); return Array.isArray(found) ? found : null; } catch { return null; } };
  const picked = list("draw")?.filter((one) => Array.isArray(one) && typeof one[0] === "string" && Number.isInteger(one[1]) && one[1] >= 0);
  if (picked) { view.touched = true; view.picked = new Map(picked); }
  view.columns = (list("columns") ?? []).filter((one) => typeof one === "string");
  const figures = list("figures");
  if (figures) view.figures = new Set(figures.filter((one) => typeof one === "string"));
  const sort = query.get("sort");
  if (sort) [view.down, view.sort] = [sort.startsWith("-"), sort.replace(/^-/, "")];
  for (const id of ["recipe", "domain", "state"]) if (query.get(id)) at(id).append(make("option", { value: query.get(id) }, query.get(id)));
  for (const id of ["words", "recipe", "domain", "state", "along", "smooth"]) if (query.get(id)) at(id).value = query.get(id);
  for (const id of ["along", "smooth"]) if (at(id).selectedIndex < 0) at(id).selectedIndex = 0;
  at("log").checked = query.get("log") === "1";
}

restore();
at("filters").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["words", "recipe", "domain", "state"]) at(id).addEventListener("input", () => { keep(); table(); });
for (const id of ["along", "smooth", "log"]) at(id).addEventListener("input", () => { keep(); curves().catch(() => live(true)); });
at("column").addEventListener("change", () => { if (at("column").value) { view.columns.push(at("column").value); keep(); table(); options(); } });
addEventListener("hashchange", () => { scrollTo(0, 0); at("tip").hidden = true; refresh().catch(() => live(true)); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
document.addEventListener("click", (event) => { const open = document.querySelector("details.fields[open]"); if (open && !open.contains(event.target)) open.open = false; });
poll();
