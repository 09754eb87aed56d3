// The plots: colours of the theme, the front redrawn on any two metrics, selections shared with the table.
const BUTTONS = [["zoom2d", "pan2d", "select2d", "lasso2d", "resetScale2d"]]; // named one by one: plotly adds one that shares online
const CONFIG = { responsive: true, displaylogo: false, modeBarButtons: BUTTONS };
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const ROLE_COLOR = { line: "front", pick: "front", level: "baseline", pruned: "dominated", infeasible: "failed" };

function themedTrace(trace) {
  if (trace.type === "heatmap") return trace;
  const tone = color(ROLE_COLOR[trace.meta] || trace.meta);
  const marker = trace.marker && { ...trace.marker, color: tone, line: { ...trace.marker.line, color: tone } };
  const errors = {};
  for (const axis of ["error_x", "error_y"]) if (trace[axis]) errors[axis] = { ...trace[axis], color: tone };
  return { ...trace, ...errors, ...(marker && { marker }), ...(trace.line && { line: { ...trace.line, color: tone } }),
    ...(trace.textfont && { textfont: { ...trace.textfont, color: tone } }) };
}

function themedLayout(layout) {
  const axis = (given) => ({ ...given, gridcolor: color("grid"), linecolor: color("line"), tickcolor: color("line"),
    zerolinecolor: color("dominated") });
  const font = { ...layout.font, color: color("ink"), family: color("sans") };
  const hover = { bgcolor: color("paper"), bordercolor: color("line"), font: { ...font, size: 13 }, align: "left" };
  return { ...layout, font, hoverlabel: hover, xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis),
    modebar: { bgcolor: "rgba(0,0,0,0)", color: color("soft"), activecolor: color("accent") } };
}

// The front: traces carry trial numbers, and everything else is worked out for the chosen axes.
function axesChosen() {
  return { x: byId("front-x").value, y: byId("front-y").value, xLog: byId("front-x-log").checked, yLog: byId("front-y-log").checked };
}

function errorBars(trace, axis, key) {
  const arms = trace.customdata.map((n) => {
    const trial = BY_NUMBER.get(n), ends = interval(trial, key), at = value(trial, key);
    return ends && at !== null ? [at - ends[0], ends[1] - at] : [null, null];
  });
  return { ...trace[axis], arrayminus: arms.map((arm) => arm[0]), array: arms.map((arm) => arm[1]) };
}

const HOVER_METRICS = ["accuracy", "latency", "macs", "params", "memory"];
function hoverText(trial, keys) {
  const lines = [`<b>${escapeText(trialTitle(trial))}</b>  ${escapeText(trial.pattern)}`];
  for (const key of new Set([...keys, ...HOVER_METRICS])) {
    if (value(trial, key) !== null) lines.push(`${METRICS[key].label} ${shown(trial, key)}`);
  }
  for (const line of stageLines(trial)) lines.push(escapeText(line));
  return lines.join("<br>");
}

function hoverCached(trial, keys) {
  trial.hover ??= {};
  return (trial.hover[keys] ??= hoverText(trial, keys));
}

// "stage2: local, depth 2, width 32, 3x3x3" from the parameters the search drew.
function stageLines(trial) {
  const stages = new Map();
  for (const [name, i] of Object.entries(column)) {
    const match = /^param_(stage\d+)\.(mixer|depth|width|kernel)$/.exec(name);
    if (!match || trial.row[i] === null) continue;
    const said = { depth: "depth ", width: "width " }[match[2]] || "";
    stages.set(match[1], [...(stages.get(match[1]) || []), said + trial.row[i]]);
  }
  return Array.from(stages, ([stage, parts]) => `${stage}: ${parts.join(", ")}`);
}

// On the page's own axes the finalists make the front, where there are any; on others, which did not choose them, all trials.
function frontLine(x, y, run) {
  const sign = (key) => (METRICS[key].direction === "maximize" ? 1 : -1);
  const own = [x, y].every((key) => Object.values(DATA.axes).includes(key));
  const all = TRIALS.filter((t) => t.run === run), final = all.filter((t) => own && t.finalist);
  const done = (final.length ? final : all).filter((t) => t.state === "complete" && value(t, x) !== null && value(t, y) !== null);
  done.sort((a, b) => sign(x) * (value(b, x) - value(a, x)) || sign(y) * (value(b, y) - value(a, y)));
  let best = -Infinity;
  const kept = done.filter((t) => sign(y) * value(t, y) > best && ((best = sign(y) * value(t, y)), true));
  if (sign(x) > 0) kept.reverse();
  return { x: kept.map((t) => value(t, x)), y: kept.map((t) => value(t, y)), shape: sign(x) > 0 ? "vh" : "hv" };
}

// Names stand where they cover least: each tries the places round its mark, and keeps off marks and earlier names.
const PLACES = [["bottom right", 0, 0.5], ["top right", 0, -0.5], ["bottom left", -1, 0.5], ["top left", -1, -0.5],
  ["bottom center", -0.5, 0.9], ["top center", -0.5, -0.9]];
function placeNames(id, data, layout) {
  if (!data.some((trace) => trace.text && trace.mode === "markers+text")) return data;
  const width = Math.max(byId(id).clientWidth - 80, 100), height = Math.max(layout.height - 110, 100);
  const x = pixels(data, "x", layout.xaxis.type === "log", width), y = pixels(data, "y", layout.yaxis.type === "log", height);
  const marks = data.filter((trace) => trace.mode !== "lines").flatMap((trace) => trace.x.map((at, i) => [x(at), height - y(trace.y[i])]));
  const taken = [];
  return data.map((trace) => (trace.text && trace.mode === "markers+text"
    ? { ...trace, textposition: trace.text.map((name, i) => place(name, [x(trace.x[i]), height - y(trace.y[i])], marks, taken, width)) }
    : trace));
}

// From a value to pixels along an axis that holds every mark and its bar.
function pixels(data, axis, log, length) {
  const scale = (at) => (log ? Math.log(at) : at), bar = `error_${axis}`, ends = [];
  for (const trace of data) {
    (trace[axis] || []).forEach((at, i) => {
      if (at !== null) ends.push(at, at + (trace[bar]?.array?.[i] || 0), at - (log ? 0 : trace[bar]?.arrayminus?.[i] || 0));
    });
  }
  const low = scale(Math.min(...ends)), high = scale(Math.max(...ends));
  return (at) => (at === null ? NaN : (0.04 + (0.92 * (scale(at) - low)) / (high - low || 1)) * length);
}

function place(name, [x, y], marks, taken, width) {
  const wide = 7 * name.length + 10, high = 15;
  const boxes = PLACES.map(([where, left, down]) => {
    const x0 = x + left * wide + Math.sign(left + 0.5) * 4, y0 = y + down * 18 - high / 2;
    return { where, x0, x1: x0 + wide, y0, y1: y0 + high };
  });
  const within = (box, [px, py]) => px > box.x0 - 4 && px < box.x1 + 4 && py > box.y0 - 4 && py < box.y1 + 4;
  const over = (a, b) => a.x0 < b.x1 && a.x1 > b.x0 && a.y0 < b.y1 && a.y1 > b.y0;
  const cost = (box) => 100 * (box.x0 < 0 || box.x1 > width) + 10 * taken.filter((other) => over(box, other)).length
    + marks.filter((mark) => within(box, mark)).length;
  const best = boxes.reduce((kept, box) => (cost(box) < cost(kept) ? box : kept));
  taken.push(best);
  return best.where;
}

function frontTrace(trace, { x, y }, visible) {
  if (trace.mode === "lines") {
    const line = frontLine(x, y, trace.legendgroup || "");
    return { ...trace, x: line.x, y: line.y, line: { ...trace.line, shape: line.shape } };
  }
  const numbers = trace.meta === "pick" ? [view.pick] : trace.customdata, trials = numbers.map((n) => BY_NUMBER.get(n));
  const bars = trace.error_x && { error_x: errorBars(trace, "error_x", x), error_y: errorBars(trace, "error_y", y) };
  const chosen = visible && { selectedpoints: trials.flatMap((t, i) => (visible.has(t.number) ? [i] : [])) };
  return { ...trace, customdata: numbers, x: trials.map((t) => (value(t, y) === null ? null : value(t, x))), y: trials.map((t) => value(t, y)), ...bars, ...chosen,
    hovertext: trials.map((t) => hoverCached(t, [x, y])), unselected: { marker: { opacity: 0.15 }, textfont: { color: "rgba(0,0,0,0)" } } };
}

let drawings = 0;
function frontFigure() {
  const axes = axesChosen(), { data, layout } = DATA.figures["plot-front"];
  const axis = (given, key, log) => ({ ...given, title: { ...given.title, text: axisTitle(key) }, type: log ? "log" : "linear" });
  const shown = { ...layout, xaxis: axis(layout.xaxis, axes.x, axes.xLog), yaxis: axis(layout.yaxis, axes.y, axes.yLog) };
  const visible = filtersOn() ? new Set(visibleTrials().map((trial) => trial.number)) : null;
  // the zoom stays while the axes do; points are chosen anew, or plotly would hold on to its last selection
  const held = { uirevision: JSON.stringify(axes), selectionrevision: ++drawings, selections: (view.selected && byId("plot-front").layout?.selections) || [] };
  const traces = data.map((trace) => themedTrace(frontTrace(trace, axes, visible)));
  return { data: placeNames("plot-front", traces, shown), layout: { ...themedLayout(shown), ...held } };
}

function redrawFront() {
  if (byId("plot-front")) drawFront();
}

// The plot follows the budget and the table's filters when the hand rests: thousands of points take a while.
let resting = 0;
function redrawSoon() {
  clearTimeout(resting);
  resting = setTimeout(redrawFront, 150);
}

function countFront() {
  const { x, y } = axesChosen();
  const placed = TRIALS.filter((t) => value(t, x) !== null && value(t, y) !== null).length;
  byId("front-count").textContent = `${placed} of ${TRIALS.length} trials have both numbers.`;
}

function drawFront() {
  const { data, layout } = frontFigure();
  countFront();
  return Plotly.react("plot-front", data, layout, CONFIG);
}

function drawPlot(id) {
  if (!byId(id)) return null;
  if (id === "plot-front") return drawFront();
  const { data, layout } = DATA.figures[id];
  const bar = { ...CONFIG, displayModeBar: false };
  return Plotly.react(id, placeNames(id, data.map(themedTrace), layout), themedLayout(fitted(id, layout)), bar);
}

// Long labels may take no more than two fifths of a narrow plot.
function fitted(id, layout) {
  const most = Math.round(byId(id).clientWidth * 0.4);
  return { ...layout, margin: { ...layout.margin, l: Math.min(layout.margin.l, Math.max(most, 48)) } };
}

function drawAll() {
  Object.keys(DATA.figures).forEach(drawPlot);
  drawParallel();
}

// A click on a cell of a heat map leaves its pattern's trials.
function startHeatMaps() {
  for (const plot of all('[id^="plot-pattern-"]')) {
    plot.on("plotly_click", ({ points: [cell] }) => {
      const words = byId("trial-search"), pattern = cell.y + cell.x;
      words.value = words.value === pattern ? "" : pattern;
      refilter();
    });
  }
}

function startFront() {
  const plot = byId("plot-front");
  if (!plot) return;
  for (const id of ["front-x", "front-y", "front-x-log", "front-y-log"]) byId(id).addEventListener("change", drawFront);
  byId("front-axes").addEventListener("submit", (event) => event.preventDefault());
  // plotly has shown its own selection already, and redraws slowly: only the table follows
  plot.on("plotly_selected", (event) => { if (event) select(event.points.flatMap((p) => (p.customdata === undefined ? [] : [p.customdata]))); });
  plot.on("plotly_deselect", () => select(null));
  plot.on("plotly_click", (event) => { if (event.points[0].customdata !== undefined) openTrial(event.points[0].customdata); });
}

function startTheme() {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  const print = (on) => { document.documentElement.classList.toggle("printing", on); drawAll(); };
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
}
