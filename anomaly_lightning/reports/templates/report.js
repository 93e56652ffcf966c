const data = JSON.parse(document.getElementById("data").textContent);
const images = data.images;
const byId = (id) => document.getElementById(id);
const DASH = "–";
const OPACITY = 55;

const state = { threshold: data.start, shown: [], open: null };

// The score axis: 0 = low end, 1 = high end.

const turn = data.axis.log ? Math.log : (value) => value;
const back = data.axis.log ? Math.exp : (value) => value;
const low = turn(data.axis.low);
const high = turn(data.axis.high);
const onAxis = (score) => (turn(score) - low) / (high - low);
const fromAxis = (place) => back(low + place * (high - low));
const inside = (place) => Math.min(1, Math.max(0, place));
const brief = (value) => Number(value.toPrecision(4)).toString();

// Metrics at a threshold.

// As runtime/decision.py decides.
const exceeds = (score, threshold) => score > threshold + data.margin * Math.abs(threshold);

function confusionAt(threshold) {
  const counts = { tp: 0, fp: 0, tn: 0, fn: 0 };
  for (const image of images) {
    const called = exceeds(image.score, threshold);
    counts[image.bad ? (called ? "tp" : "fn") : called ? "fp" : "tn"] += 1;
  }
  return counts;
}

// Wilson's 95 % interval of count / total.
function wilson(count, total) {
  const z2 = 1.959963984540054 ** 2;
  const middle = (count + z2 / 2) / (total + z2);
  const half = Math.sqrt(z2 * ((count * (total - count)) / total + z2 / 4)) / (total + z2);
  return [Math.max(middle - half, 0), Math.min(middle + half, 1)];
}

// Chances of 0 to n hits in n draws, each a hit with the given chance.
function binomial(n, chance) {
  const chances = new Array(n + 1).fill(0);
  if (chance === 0 || chance === 1) {
    chances[n * chance] = 1;
    return chances;
  }
  let log = n * Math.log1p(-chance);
  chances[0] = Math.exp(log);
  for (let hits = 1; hits <= n; hits += 1) {
    log += Math.log(((n - hits + 1) / hits) * (chance / (1 - chance)));
    chances[hits] = Math.exp(log);
  }
  return chances;
}

// 95 % percentile interval of F1, good parts and defects resampled apart: at a fixed threshold the hits and the alarms
// of a resample are binomial, so what the bootstrap draws can be summed instead.
function f1Interval({ tp, fp, tn, fn }) {
  const good = fp + tn;
  const bad = tp + fn;
  const hits = binomial(bad, tp / bad);
  const atLeast = new Array(good + 2).fill(0); // chances of so many alarms or more
  const alarms = binomial(good, fp / good);
  for (let count = good; count >= 0; count -= 1) atLeast[count] = atLeast[count + 1] + alarms[count];
  // F1 = 2 hits / (hits + alarms + bad) is at most f1 from so many alarms on.
  const least = (hit, f1) => Math.min(Math.max(Math.ceil(hit * (2 / f1 - 1) - bad), 0), good + 1);
  const reached = (f1) => hits.reduce((sum, chance, hit) => sum + chance * atLeast[least(hit, f1)], 0);
  return [0.025, 0.975].map((level) => {
    let [below, above] = [0, 1];
    for (let step = 0; step < 40; step += 1) {
      const middle = (below + above) / 2;
      if (reached(middle) < level) below = middle;
      else above = middle;
    }
    return above;
  });
}

function metricsAt(threshold) {
  const { tp, fp, tn, fn } = confusionAt(threshold);
  const good = fp + tn;
  const bad = tp + fn;
  const share = (count, total) => (total ? count / total : null);
  const both = good > 0 && bad > 0;
  return {
    tp, fp, tn, fn,
    precision: both ? share(tp, tp + fp) : null,
    recall: share(tp, bad),
    f1: both ? share(2 * tp, 2 * tp + fp + fn) : null,
    perThousand: good ? (1000 * fp) / good : null,
    precisionInterval: both && tp + fp > 0 ? wilson(tp, tp + fp) : null,
    recallInterval: bad ? wilson(tp, bad) : null,
    f1Interval: both ? f1IntervalAt(threshold, { tp, fp, tn, fn }) : null,
    alarmInterval: good ? wilson(fp, good) : null,
    whyPrecision: both ? "no image is called NG" : bad ? "there are no good test images" : "there are no defects",
  };
}

// At the calibrated threshold it is that of metrics.json, which the table of metrics shows as well.
function f1IntervalAt(threshold, counts) {
  return (threshold === data.threshold && data.f1_interval) || f1Interval(counts);
}

const isCalledNG = (image) => exceeds(image.score, state.threshold);
const isWrong = (image) => isCalledNG(image) !== image.bad;
const wrongness = (image) => (image.bad ? state.threshold - image.score : image.score - state.threshold);
const errorOf = (image) => (isWrong(image) ? (image.bad ? "missed" : "false alarm") : "");

// A number with a line below it: an interval, or why there is none.
function put(id, text, below) {
  const small = document.createElement("small");
  small.textContent = below;
  byId(id).replaceChildren(text, small);
}

function showMetrics() {
  const at = metricsAt(state.threshold);
  for (const name of ["tp", "fp", "tn", "fn"]) byId(name).textContent = at[name];
  const share = (value) => (value === null ? DASH : value.toFixed(3));
  const sure = (bounds, why) => (bounds ? `95 %: ${bounds.map(share).join(" to ")}` : why);
  put("precision", share(at.precision), sure(at.precisionInterval, at.whyPrecision));
  put("recall", share(at.recall), sure(at.recallInterval, "there are no defects"));
  put("f1", share(at.f1), sure(at.f1Interval, at.whyPrecision));
  const alarms = at.alarmInterval?.map((bound) => (1000 * bound).toFixed(0)).join(" to ");
  const perThousand = at.perThousand === null ? DASH : at.perThousand.toFixed(0);
  put("per-thousand", perThousand, alarms ? `95 %: ${alarms}` : "there are no good test images");
  byId("brief").textContent = `${at.fn} missed, ${at.fp} false ${at.fp === 1 ? "alarm" : "alarms"}`;
  movePoint("roc-point", at.perThousand / 1000, at.recall);
  movePoint("pr-point", at.recall, at.precision ?? 1);
  showFound();
}

function movePoint(id, x, y) {
  byId(id)?.setAttribute("d", `M${100 * x} ${100 - 100 * y}h0`);
}

function showFound() {
  for (const cell of document.querySelectorAll("[data-found]")) {
    const own = images.filter((image) => image.bad && image.defect === cell.dataset.found);
    cell.textContent = own.filter(isCalledNG).length;
  }
}

// The threshold and its controls.

function setThreshold(threshold, source) {
  state.threshold = threshold;
  const place = inside(onAxis(threshold));
  if (source !== "slider") byId("slider").value = Math.round(1000 * place);
  if (source !== "exact") byId("exact").value = brief(threshold);
  byId("slider").setAttribute("aria-valuetext", brief(threshold));
  placeLine("cut", place);
  const moved = data.threshold !== null && threshold !== data.threshold;
  byId("honesty").hidden = !moved;
  byId("reset").disabled = !moved;
  requestUpdate();
}

function placeLine(id, place) {
  for (const end of ["x1", "x2"]) byId(id).setAttribute(end, `${100 * place}%`);
}

let waiting = false;
let speaking = 0;

function requestUpdate() {
  if (!waiting) requestAnimationFrame(update);
  waiting = true;
  // Spoken once the slider rests, not at every step of it.
  clearTimeout(speaking);
  speaking = setTimeout(speak, 600);
}

function update() {
  waiting = false;
  showMetrics();
  showGallery();
  for (const tile of document.querySelectorAll(".strip .tile")) dress(tile);
  if (state.open !== null) describeOpen();
}

function speak() {
  byId("spoken").textContent = `Threshold ${brief(state.threshold)}: ${byId("brief").textContent}, ` +
    `${state.shown.length} images shown.`;
}

// Images.

function fillStack(stack, image) {
  const [width, height] = image.box;
  stack.style.aspectRatio = `${width} / ${height}`;
  for (const name of ["image", "heat"]) {
    const drawn = stack.querySelector(`img.${name}`);
    drawn.hidden = !image[name];
    if (image[name]) drawn.src = image[name];
    else drawn.removeAttribute("src");
  }
  stack.querySelector("svg").setAttribute("viewBox", `0 0 ${width} ${height}`);
  for (const name of ["truth", "predicted"]) {
    for (const path of stack.querySelectorAll(`path.${name}`)) path.setAttribute("d", image[name] ?? "");
  }
  stack.querySelector(".missing").textContent = image.image ? "" : `not shown: ${image.why}`;
}

function makeTile(index) {
  const item = byId("tile").content.firstElementChild.cloneNode(true);
  const tile = item.querySelector(".tile");
  tile.dataset.index = index;
  fillStack(tile.querySelector(".stack"), images[index]);
  tile.querySelector(".score").textContent = brief(images[index].score);
  tile.querySelector(".kind").textContent = images[index].defect;
  dress(tile);
  return item;
}

// What of a tile depends on the threshold.
function dress(tile) {
  const image = images[tile.dataset.index];
  const verdict = isCalledNG(image) ? "NG" : "OK";
  const error = errorOf(image);
  tile.classList.toggle("wrong", error !== "");
  tile.querySelector(".verdict").textContent = verdict;
  tile.querySelector(".error").textContent = error;
  tile.setAttribute("aria-label", `${image.name}: called ${verdict}${error && `, ${error}`}, score ${brief(image.score)}`);
}

const items = images.map((_, index) => makeTile(index));

const orders = {
  wrong: (a, b) => wrongness(images[b]) - wrongness(images[a]),
  high: (a, b) => images[b].score - images[a].score,
  low: (a, b) => images[a].score - images[b].score,
  name: (a, b) => images[a].name.localeCompare(images[b].name, "en", { numeric: true }),
};
const decided = {
  "": () => true,
  ok: (image) => !isCalledNG(image),
  ng: isCalledNG,
  wrong: isWrong,
};

function showGallery() {
  const defect = byId("defect").value;
  const keep = decided[byId("decided").value];
  const kept = images.map((_, index) => index).filter((index) => {
    return (!defect || images[index].defect === defect) && keep(images[index]);
  });
  state.shown = kept.sort((a, b) => orders[byId("sort").value](a, b) || a - b);
  const gallery = byId("gallery");
  const focused = gallery.contains(document.activeElement) ? document.activeElement : null;
  gallery.replaceChildren(...state.shown.map((index) => items[index]));
  focused?.focus({ preventScroll: true });
  for (const index of state.shown) dress(items[index].firstElementChild);
  byId("shown").textContent = `${state.shown.length} of ${images.length} images.`;
}

// The enlarged image.

const dialog = byId("dialog");

function openImage(index) {
  state.open = index;
  fillStack(dialog.querySelector(".stack"), images[index]);
  const [width, height] = images[index].box;
  dialog.querySelector(".stack").style.maxWidth = `${(68 * width) / height}dvh`;
  describeOpen();
  if (!dialog.open) dialog.showModal();
}

function describeOpen() {
  const image = images[state.open];
  const place = state.shown.indexOf(state.open);
  const error = errorOf(image);
  byId("dialog-title").textContent = image.name;
  byId("dialog-text").textContent =
    `${image.defect}, called ${isCalledNG(image) ? "NG" : "OK"}${error && ` (${error})`}: ` +
    `score ${brief(image.score)}, threshold ${brief(state.threshold)}` +
    (place < 0 ? "." : `. Image ${place + 1} of ${state.shown.length}.`);
  byId("previous").disabled = place <= 0;
  byId("next").disabled = place < 0 || place >= state.shown.length - 1;
}

function walk(step) {
  const next = state.shown[state.shown.indexOf(state.open) + step];
  if (state.shown.includes(state.open) && next !== undefined) openImage(next);
}

function closed() {
  const tile = items[state.open].firstElementChild;
  state.open = null;
  if (tile.isConnected) tile.focus();
}

function setOpacity(value) {
  document.documentElement.style.setProperty("--opacity", value / 100);
  for (const id of ["opacity", "dialog-opacity"]) byId(id).value = value;
}

// Events.

byId("slider").addEventListener("input", (event) => setThreshold(fromAxis(event.target.value / 1000), "slider"));
byId("exact").addEventListener("input", (event) => {
  if (Number.isFinite(event.target.valueAsNumber)) setThreshold(event.target.valueAsNumber, "exact");
});
byId("reset").addEventListener("click", () => {
  setThreshold(data.threshold);
  byId("slider").focus();
});
for (const id of ["sort", "defect", "decided"]) byId(id).addEventListener("change", requestUpdate);
for (const id of ["opacity", "dialog-opacity"]) {
  byId(id).addEventListener("input", (event) => setOpacity(event.target.value));
}
for (const name of ["truth", "predicted"]) {
  byId(`show-${name}`).addEventListener("change", (event) => {
    document.body.classList.toggle(`no-${name}`, !event.target.checked);
  });
}
document.addEventListener("click", (event) => {
  const tile = event.target.closest(".tile");
  if (tile) openImage(Number(tile.dataset.index));
  if (event.target === dialog) dialog.close();
});
dialog.addEventListener("close", closed);
dialog.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || event.target.type === "range") return;
  event.preventDefault();
  walk(step);
});
byId("previous").addEventListener("click", () => walk(-1));
byId("next").addEventListener("click", () => walk(1));
byId("close").addEventListener("click", () => dialog.close());

// The first view.

for (const strip of document.querySelectorAll(".strip")) {
  strip.replaceChildren(...strip.dataset.places.split(" ").map((index) => makeTile(Number(index))));
}
if (data.threshold !== null) placeLine("calibrated-line", inside(onAxis(data.threshold)));
setOpacity(OPACITY);
setThreshold(data.start);
