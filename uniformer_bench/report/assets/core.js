"use strict";
// The page's data, its trials by number, and small helpers. Text reaches the page through textContent only;
// the HTML in DATA (drawings, architectures) was made and escaped when the page was built.
let DATA, METRICS, TRIALS, BY_NUMBER, column;
const MISSING = "–";
const byId = (id) => document.getElementById(id);
const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));

// Blocks are compressed and in base64: the data as JSON, and the plotting library, which the page's policy
// allows by the hash of its text.
function unpacked(id) {
  const packed = Uint8Array.from(atob(byId(id).textContent), (sign) => sign.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip")));
}

async function loadLibrary() {
  document.head.append(element("script", await unpacked("library").text()));
}

async function unpack() {
  DATA = await unpacked("data").json();
  METRICS = DATA.metrics;
  column = Object.fromEntries(DATA.columns.map((name, i) => [name, i]));
  TRIALS = DATA.rows.map(readTrial);
  BY_NUMBER = new Map(TRIALS.map((trial) => [trial.number, trial]));
  view.pick = DATA.choice && DATA.choice.pick;
}

function readTrial(row, i) {
  const [number, label, pattern, front, finalist] = DATA.extra[i];
  return { number, label, run: label.replace(/\d+$/, ""), state: row[column.state], baseline: row[column.baseline], pattern, front: front === 1, finalist: finalist === 1, row };
}

// A metric's value in the page's unit, or null.
function value(trial, key) {
  const raw = trial.row[column[METRICS[key].column]];
  return raw === null ? null : raw * METRICS[key].scale;
}

function interval(trial, key) {
  const low = column[METRICS[key].column + "_ci_low"];
  if (low === undefined || trial.row[low] === null || trial.row[low + 1] === null) return null;
  return [trial.row[low] * METRICS[key].scale, trial.row[low + 1] * METRICS[key].scale];
}

function figure(number, digits = 3) {
  if (number === null || number === undefined || !Number.isFinite(number)) return MISSING;
  if (number === 0) return "0";
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(number))));
  const format = { minimumFractionDigits: Math.min(decimals, 9), maximumFractionDigits: Math.min(decimals, 9) };
  return number.toLocaleString("en", format).replace("-", "−");
}

function shown(trial, key) {
  const number = value(trial, key);
  if (number === null) return MISSING;
  return (METRICS[key].unit === "%" ? number.toFixed(1) : figure(number)) + "\u00a0" + METRICS[key].unit;
}

const axisTitle = (key) => `${METRICS[key].label} (${METRICS[key].unit})`;
const escapeText = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const trialTitle = (trial) => (trial.baseline ? `${trial.baseline} (trial ${trial.label})` : `Trial ${trial.label}`);

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [key, given] of Object.entries(attributes)) made.setAttribute(key, given);
  return made;
}

// What is in view: the trials drawn over in the front's plot (null: no selection), and the pick.
const view = { selected: null, pick: null };

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch (error) { // a file:// page may not be let near the clipboard: the old way
    const area = document.body.appendChild(element("textarea"));
    area.value = text;
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

async function copyFrom(button) {
  await copy(button.parentElement.querySelector("pre").textContent);
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1200);
}

function save(name, text, type) {
  const link = element("a", "", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
