"use strict";
// Above all else on the page: what the drift monitor of each model says, and the buttons that take an alarm back.

{
  const EVERY_MS = 10000;
  const CHOICES = [
    ["seen", "False alarm, or repaired", "compare with the normals of the calibration and all images so far"],
    ["line", "This is how it is now", "compare with the images from now on; the threshold stays as it is"],
    ["calibration", "Begin again", "compare with the normals of the calibration alone"],
  ];
  // What people call the measures of runtime/drift_measures.py; textures are put together below.
  const CALLED = {
    log_score: "the score", log_top: "the largest errors", log_upper: "the larger errors", log_median: "the usual error",
    brightness: "brightness", log_contrast: "contrast", dark: "black pixels", bright: "saturated pixels",
    red_green: "colour (red to green)", blue_yellow: "colour (blue to yellow)", log_aspect: "the images' shape",
    log_height: "the images' size", layout: "where light and dark are",
  };
  const called = measure => {
    const [, calm, scale, way] = /^log_(calm_)?(fine|middle|coarse)_(across|down)$/.exec(measure) ?? [];
    return CALLED[measure] ?? (scale ? `${scale} texture ${way}${calm ? " in the calmer areas" : ""}` : measure);
  };
  const place = make("section");
  place.setAttribute("aria-label", "Drift");
  place.id = "drift";
  $("main").prepend(place);

  const reset = async (name, reference) => {
    const body = JSON.stringify({ reference }), headers = { "Content-Type": "application/json" };
    const answer = await ask(`v1/models/${encodeURIComponent(name)}/drift/reset`, { method: "POST", headers, body });
    if (answer.ok) await look();
    else place.append(make("p", (await answer.json()).error));
  };

  const alarmed = ({ name, drift }) => {
    const { alarm } = drift, parts = make("div"), buttons = make("p", undefined, "buttons");
    const since = `since about image ${alarm.since + 1}, noticed at ${alarm.image} (${new Date(alarm.time).toLocaleString()})`;
    for (const [reference, text, title] of CHOICES) {
      const button = make("button", text);
      button.type = "button";
      button.title = title;
      button.addEventListener("click", () => reset(name, reference));
      buttons.append(button);
    }
    parts.append(make("h2", `Drift: ${alarm.cause}`), make("p", `${name}: ${alarm.words}`),
      make("p", `Seen in ${called(alarm.measure)}, ${since}. Thresholds are as they were: what they promise may no longer hold.`), buttons);
    parts.setAttribute("role", "alert");
    return parts;
  };

  const calm = ({ name, drift }) => make("p", drift.watched
    ? `${name}: no drift in ${drift.images} images (at most one false alarm in ${drift.images_per_alarm}).`
    : `${name}: ${drift.why}`, "drift");

  let shown = "", looking = 0;
  const look = async () => {
    const mine = ++looking;
    let models;
    try {
      models = await (await ask("v1/models")).json();
    } catch {
      return;  // the list of decisions says that the service does not answer
    }
    if (mine !== looking) return;  // it was asked again since: an older answer must not undo a newer one
    const text = JSON.stringify(models.map(model => model.drift));
    if (text === shown) return;
    shown = text;
    place.replaceChildren(...models.map(model => model.drift.alarm ? alarmed(model) : calm(model)));
  };

  look();
  setInterval(() => { if (!document.hidden) look(); }, EVERY_MS);
}
