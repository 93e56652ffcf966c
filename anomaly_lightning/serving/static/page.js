"use strict";
// Images in, results out, and the list of what was decided last.

const LAST = 50, KEPT = 24, POLL_MS = 2000, PAUSE_MS = 500;
const state = { models: [], shown: null, here: [], waiting: [], busy: false, after: 0, started: null, stream: null };

const say = text => { $("state").textContent = text; };

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

// ---- Images in, one after the other ---------------------------------------------------------------------------------

async function inspect(blob, name, heatmap) {
  const form = new FormData();
  form.append("image", blob, name);
  await modelsKnown();
  if (!state.models.length) throw new TypeError("no model is known");  // the service does not answer
  const query = new URLSearchParams({ model: $("model").value, heatmap, contours: "true" });
  for (;;) {
    const answer = await ask(`v1/inspect?${query}`, { method: "POST", body: form, again: true });
    const found = await answer.json();
    if (answer.ok) return { ...found.images[0], total_ms: found.total_ms };
    if (answer.status !== 429) throw new Error(found.error);
    say(`The service is busy. ${name} waits.`);
    await sleep(1000 * found.retry_after_s);
  }
}

// What fetch throws where nobody answers is a TypeError.
const failure = (name, error) => error instanceof TypeError ? `${name}: the service does not answer.` : error.message;

function take(files) {
  if (files.length) location.hash = "#inspect";
  state.waiting.push(...files);
  if (!state.busy) work();
}

async function work() {
  state.busy = true;
  trouble("");
  const failed = [];
  let done = 0;
  while (state.waiting.length) {
    const file = state.waiting.shift(), name = file.name || "image";
    say(`Inspecting ${name} (${done + 1} of ${done + 1 + state.waiting.length}) …`);
    try {
      await one(file, name);
      done += 1;
    } catch (error) {
      failed.push(failure(name, error));
      trouble(failed.join(" "));
    }
  }
  state.busy = false;
  say(done ? `${done} ${done === 1 ? "image" : "images"} inspected.` : "");
}

async function one(file, name) {
  const url = URL.createObjectURL(file), picture = new Image();
  picture.src = url;
  const visible = await picture.decode().then(() => true, () => false);
  let said;
  try {
    said = await inspect(file, name, visible ? "colors" : "overlay");
  } finally {
    if (!said || !visible) URL.revokeObjectURL(url);  // nobody shows it: it would stay in memory as long as the page
  }
  const heat = `data:image/png;base64,${said.heatmap}`;
  delete said.heatmap;
  const item = { said, name, visible, image: visible ? url : heat, heat: visible ? heat : null };
  state.here.unshift(item);
  for (const old of state.here.splice(KEPT)) URL.revokeObjectURL(old.image);
  show(item);
  poll();
  return said;
}

// ---- The result -----------------------------------------------------------------------------------------------------

function show(item) {
  const { said } = item;
  state.shown = item;
  $("result").hidden = $("here").hidden = false;
  $("picture").style.setProperty("--aspect", said.width / said.height);
  $("image").src = item.image;
  $("image").alt = `${item.name}: ${said.verdict}`;
  $("heat").hidden = !item.heat;
  if (item.heat) $("heat").src = item.heat;
  $("opacity").disabled = !item.heat;
  $("verdict").textContent = said.verdict;
  $("verdict").className = $("level").className = said.verdict;
  $("name").textContent = `${item.name}, ${said.width} × ${said.height} pixels`;
  $("reason").textContent = said.reason ? `It is not of the kind that the model knows: ${said.reason}` : "";
  $("reason").hidden = !said.reason;
  gauge(said);
  showRegions(said, $("outlines"), $("regions"));
  const times = said.timings_ms;
  $("times").textContent = `${Math.round(said.total_ms)} ms: waiting ${Math.round(times.queue)}, decoding ` +
    `${Math.round(times.decode)}, inspecting ${Math.round(times.inspect)}, drawing ${Math.round(times.draw)}` +
    (item.heat ? "" : ". Browsers don't show this kind of file: this is the heatmap on it, in grey");
  strip();
}

// The threshold stands in the middle, as it does in the heatmap's colours.
function gauge(said) {
  const place = value => `${Math.max(0, Math.min(100, 50 * (value ?? 2 * said.threshold) / said.threshold))}%`;
  $("score").textContent = number(said.score);
  $("threshold").textContent = number(said.threshold);
  $("level").style.width = place(said.score);
  $("low").hidden = said.review === null;
  if (said.review !== null) $("low").style.left = place(said.review);
  $("gauge").setAttribute("aria-label", `score ${number(said.score)}, threshold ${number(said.threshold)}`);
}

function strip() {
  $("strip").replaceChildren(...state.here.map(item => {
    const entry = make("li"), button = make("button"), image = make("img");
    button.type = "button";
    image.src = item.image;
    image.alt = "";
    button.append(image, make("b", item.said.verdict, item.said.verdict), make("span", item.name));
    button.setAttribute("aria-current", String(item === state.shown));
    button.addEventListener("click", () => {
      show(item);
      $("strip").children[state.here.indexOf(item)].firstChild.focus();
    });
    entry.append(button);
    return entry;
  }));
}

// ---- The last decisions of everybody --------------------------------------------------------------------------------

let polling = false;
async function poll() {
  if (polling) return;
  polling = true;
  try {
    const { started, decisions, models } = await (await ask(`v1/decisions?after=${state.after}`)).json();
    if (state.started !== null && state.started !== started) {
      Object.assign(state, { after: 0, started: null });  // the service began anew, and so do its numbers
      $("last").tBodies[0].replaceChildren();
      return;
    }
    const first = state.started === null;
    state.started = started;
    decisions.forEach(listed);
    if (!first && decisions.length) dispatchEvent(new CustomEvent("decided", { detail: decisions.length }));
    await noticeExchange(models);
  } catch {
    $("counts").textContent = "The service does not answer.";
  } finally {
    polling = false;
  }
}

function listed(decision) {
  const rows = $("last").tBodies[0], row = make("tr");
  state.after = decision.number;
  const time = make("time", new Date(decision.time).toLocaleTimeString()), cell = make("td");
  time.dateTime = decision.time;
  cell.append(time);
  row.append(cell, make("td", decision.verdict, decision.verdict), make("td", number(decision.score), "number"),
    make("td", decision.name), make("td", decision.model, "model"));
  if (decision.reason) row.title = decision.reason;
  rows.prepend(row);
  while (rows.rows.length > LAST) rows.deleteRow(-1);
  const counts = {};
  for (const one of rows.rows) counts[one.cells[1].textContent] = (counts[one.cells[1].textContent] ?? 0) + 1;
  $("counts").textContent = `Of the last ${rows.rows.length}: ` +
    Object.entries(counts).map(([verdict, count]) => `${count} ${verdict}`).join(", ") + ".";
  $("last").hidden = false;
}

// ---- What a person does ---------------------------------------------------------------------------------------------

$("files").addEventListener("change", event => {
  take([...event.target.files]);
  event.target.value = "";  // so that the same file can be chosen again
});
let inside = 0;
for (const [kind, step] of [["dragenter", 1], ["dragleave", -1], ["drop", 0]]) {
  addEventListener(kind, event => {
    event.preventDefault();
    inside = step ? inside + step : 0;
    document.body.classList.toggle("dragging", inside > 0);
  });
}
addEventListener("dragover", event => event.preventDefault());
addEventListener("drop", event => take([...event.dataTransfer.files]));
addEventListener("paste", event => { if (event.clipboardData.files.length) take([...event.clipboardData.files]); });
$("opacity").addEventListener("input", event => $("picture").style.setProperty("--opacity", event.target.value / 100));
$("show-outlines").addEventListener("change", event => $("outlines").classList.toggle("off", !event.target.checked));
$("model").addEventListener("change", describe);
$("camera-on").addEventListener("click", () => openCamera());
$("camera-off").addEventListener("click", () => { closeCamera(); $("camera-on").focus(); });
$("cameras").addEventListener("change", event => openCamera(event.target.value));
$("shoot").addEventListener("click", shoot);

modelsKnown().then(poll);
setInterval(() => { if (!document.hidden) poll(); }, POLL_MS);
