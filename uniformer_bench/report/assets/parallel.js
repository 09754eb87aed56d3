// Parallel coordinates on a canvas: a line a complete trial. Dragging along an axis and its fields below set the
// same range; ranges filter the table and the front, whose filters in turn dim lines here.
const ranges = new Map(); // dimension's index -> [low, high] in the page's unit, or a choice
const PARALLEL_HEIGHT = 300, PARALLEL_PAD = 16, FEW_LINES = 60;

function rawOn(trial, given) {
  return trial.row[column[given.column]];
}

function inRanges(trial) {
  for (const [i, range] of ranges) {
    const given = DATA.parallel[i], raw = rawOn(trial, given);
    if (raw === null) return false;
    if (given.choices.length ? choiceText(raw) !== range : raw * given.scale < range[0] || raw * given.scale > range[1]) return false;
  }
  return true;
}

const choiceText = (raw) => (typeof raw === "number" ? String(raw).replace("-", "−") : raw);

// How high on its axis, from 0, the lowest, to 1; null where the trial has no such value.
function shareOn(raw, given) {
  if (raw === null) return null;
  if (!given.choices.length) return shareOf(raw * given.scale, given);
  const at = given.choices.indexOf(choiceText(raw));
  return at < 0 ? null : (at + 0.5) / given.choices.length;
}

function shareOf(number, { low, high, log }) {
  const bend = log ? Math.log : (x) => x, inside = Math.min(high, Math.max(low, number));
  return (bend(inside) - bend(low)) / (bend(high) - bend(low));
}

function valueAt(share, given) {
  const at = Math.min(1, Math.max(0, share));
  return given.log ? given.low * Math.pow(given.high / given.low, at) : given.low + at * (given.high - given.low);
}

function parallelPlaces() {
  const canvas = byId("plot-parallel"), width = canvas.clientWidth, step = width / DATA.parallel.length;
  const y = (share) => PARALLEL_HEIGHT - PARALLEL_PAD - share * (PARALLEL_HEIGHT - 2 * PARALLEL_PAD);
  return { canvas, width, x: (i) => (i + 0.5) * step, y, share: (at) => (PARALLEL_HEIGHT - PARALLEL_PAD - at) / (PARALLEL_HEIGHT - 2 * PARALLEL_PAD) };
}

function strokeTrial(pen, trial, { x, y }) {
  pen.beginPath();
  let broken = true;
  DATA.parallel.forEach((given, i) => {
    const share = shareOn(rawOn(trial, given), given);
    if (share !== null) pen[broken ? "moveTo" : "lineTo"](x(i), y(share));
    broken = share === null;
  });
  pen.stroke();
}

function strokeAll(pen, trials, places, name, width, least) {
  pen.strokeStyle = color(name);
  pen.lineWidth = width;
  pen.globalAlpha = Math.min(0.9, Math.max(least, FEW_LINES / (trials.length + 1)));
  for (const trial of trials) strokeTrial(pen, trial, places);
  pen.globalAlpha = 1;
}

function drawAxis(pen, given, i, { x, y }) {
  pen.strokeStyle = color("soft");
  pen.lineWidth = 1;
  pen.strokeRect(x(i), y(1), 0, y(0) - y(1));
  const range = ranges.get(i);
  if (range && !given.choices.length) {
    const [low, high] = range.map((end) => y(shareOf(end, given)));
    pen.fillStyle = color("accent");
    pen.fillRect(x(i) - 4, high, 8, Math.max(2, low - high));
  }
  const labels = given.choices.length ? given.choices.map((text, n) => [text, (n + 0.5) / given.choices.length])
    : [[figure(given.low), 0], [figure(given.high), 1]];
  for (const [text, share] of labels) {
    const chosen = range === text, at = y(share) + (given.choices.length ? 4 : share ? -4 : 13);
    pen.font = `${chosen ? "bold " : ""}11px ${color("sans")}`;
    pen.strokeStyle = color("paper");
    pen.lineWidth = 4;
    pen.strokeText(text, x(i) + 5, at);
    pen.fillStyle = color(chosen ? "accent" : "ink");
    pen.fillText(text, x(i) + 5, at);
  }
}

function drawParallel() {
  if (!byId("plot-parallel")) return;
  const places = parallelPlaces(), { canvas, width } = places, ratio = devicePixelRatio || 1;
  canvas.width = width * ratio;
  canvas.height = PARALLEL_HEIGHT * ratio;
  const pen = canvas.getContext("2d"), done = TRIALS.filter((trial) => trial.state === "complete");
  pen.scale(ratio, ratio);
  pen.lineJoin = "round";
  const seen = filtersOn() ? new Set(visibleTrials()) : null;
  const kept = seen ? done.filter((trial) => seen.has(trial)) : done;
  if (seen) strokeAll(pen, done.filter((trial) => !seen.has(trial)), places, "grid", 1, 0.25);
  strokeAll(pen, kept.filter((trial) => !trial.front), places, seen ? "accent" : "dominated", 1, 0.07);
  strokeAll(pen, kept.filter((trial) => trial.front), places, "front", 2, 0.5);
  DATA.parallel.forEach((given, i) => drawAxis(pen, given, i, places));
  byId("parallel-count").textContent = `${kept.length} of ${done.length} complete trials${seen ? " pass every filter of the page" : ""}. The front is drawn thicker.`;
}

// Thousands of lines take a while to paint: the table answers first.
let restingLines = 0;
function drawParallelSoon() {
  clearTimeout(restingLines);
  restingLines = setTimeout(drawParallel, 120);
}

function fieldsOf(i) {
  return all(`[data-dimension="${i}"]`, byId("parallel"));
}

// What the fields say is the range; an empty field leaves that end open.
function readFields(i) {
  const [first, second] = fieldsOf(i).map((field) => field.value);
  if (DATA.parallel[i].choices.length ? first === "" : first === "" && second === "") ranges.delete(i);
  else if (DATA.parallel[i].choices.length) ranges.set(i, first);
  else ranges.set(i, [first === "" ? -Infinity : Number(first), second === "" ? Infinity : Number(second)]);
  refilter();
}

function setFields(i, texts) {
  fieldsOf(i).forEach((field, n) => { field.value = texts[n]; });
  readFields(i);
}

function clearRanges() {
  ranges.clear();
  byId("parallel")?.reset();
}

function brush(from, to) {
  const { share } = parallelPlaces(), i = from.i, given = DATA.parallel[i], places = given.choices.length;
  if (places) {
    const chosen = given.choices[Math.min(places - 1, Math.max(0, Math.floor(share(to.y) * places)))];
    return setFields(i, [ranges.get(i) === chosen ? "" : chosen]);
  }
  if (Math.abs(from.y - to.y) < 4) return setFields(i, ["", ""]);
  const ends = [share(from.y), share(to.y)].sort((a, b) => a - b);
  return setFields(i, ends.map((end) => Number(valueAt(end, given).toPrecision(4))));
}

function startParallel() {
  const canvas = byId("plot-parallel");
  if (!canvas) return;
  let from = null;
  const at = (event) => {
    const box = canvas.getBoundingClientRect(), step = box.width / DATA.parallel.length;
    return { i: Math.min(DATA.parallel.length - 1, Math.floor((event.clientX - box.left) / step)), y: event.clientY - box.top };
  };
  canvas.addEventListener("pointerdown", (event) => { from = at(event); canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointerup", (event) => { if (from) brush(from, at(event)); from = null; });
  canvas.addEventListener("pointercancel", () => { from = null; });
  byId("parallel").addEventListener("submit", (event) => event.preventDefault());
  byId("parallel").addEventListener("input", (event) => readFields(Number(event.target.dataset.dimension)));
  addEventListener("resize", drawParallel);
  drawParallel();
}
