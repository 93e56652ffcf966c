"use strict";
// ---- Which model ----------------------------------------------------------------------------------------------------

const SILENT = "The service does not answer.";

// Whoever needs a model waits until the page knows which are served; where that failed, it is tried anew.
let loading = null;
async function modelsKnown() {
  if (state.models.length) return;
  loading ??= loadModels().finally(() => { loading = null; });
  await loading;
}

async function loadModels() {
  try {
    state.models = await (await ask("v1/models")).json();
  } catch {
    trouble(SILENT);
    return;
  }
  if ($("trouble").textContent === SILENT) trouble("");
  const chosen = $("model").value;
  $("model").replaceChildren(...state.models.map(model => new Option(model.name)));
  if (state.models.some(model => model.name === chosen)) $("model").value = chosen;
  $("models").hidden = state.models.length < 2;
  describe();
}

function describe() {
  const model = state.models.find(one => one.name === $("model").value);
  $("what").textContent = `${model.name}: ${model.detector} on ${model.backbone}, version ${model.id}`;
  const review = model.review === null ? "" : ` Scores from ${number(model.review)} up to it are for review.`;
  $("promise").textContent = `${model.promise} The threshold is ${number(model.threshold)}: a higher score is NG.${review}`;
  $("rests").replaceChildren(...model.rests_on.map(text => make("li", text)));
}

// Every poll says which models are served (ids by name): a page that stays open must not describe one that is gone.
async function noticeExchange(served) {
  await modelsKnown();
  const before = new Map(state.models.map(model => [model.name, model.id]));
  const changed = Object.keys(served).filter(name => before.get(name) !== served[name]);
  if (!changed.length || !before.size) return;
  await loadModels();
  const when = new Date().toLocaleTimeString();
  $("exchanged").textContent = changed.map(name => `Model ${name} was exchanged: version ${served[name]} since ${when}, ` +
    `${before.get(name)} before.`).join(" ");
  $("exchanged").hidden = false;
}
