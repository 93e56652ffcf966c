"use strict";
// What all parts of the page share: finding and making elements, and asking the service. No library, nothing from elsewhere.

const AGAIN_MS = 300;
const $ = id => document.getElementById(id);
const number = value => value === null ? "–" : String(Number(value.toPrecision(4)));
const sleep = ms => new Promise(done => setTimeout(done, ms));

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

// ---- Asking the service ---------------------------------------------------------------------------------------------

async function ask(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const answer = await reached(path, { ...options, headers });
  if (answer.status !== 401) return answer;
  // A late refusal says nothing of a token that was given since.
  if (sessionStorage.getItem("token") === token) await newToken(token !== null);
  return ask(path, options);
}

// A browser drops what is under way when a network comes or goes (Wi-Fi, a tunnel), the machine's own service included.
async function reached(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (options.method && !options.again) throw error;  // it may have been done: what changes something is not sent twice
    await sleep(AGAIN_MS);
    return fetch(path, options);
  }
}

// Several requests may be refused at once: they all wait for the one dialog.
let asking = null;
function newToken(wrong) {
  asking ??= new Promise(done => {
    $("ask-why").textContent = wrong ? "The token that you gave is not the right one." : "Whoever runs it knows it.";
    $("ask").showModal();
    $("ask-form").addEventListener("submit", () => {
      sessionStorage.setItem("token", $("token").value);
      asking = null;
      done();
    }, { once: true });
  });
  return asking;
}
$("ask").addEventListener("cancel", event => event.preventDefault());
$("ask").addEventListener("close", () => {
  if (asking && !$("ask").open) $("ask").showModal();  // a second Escape closes it all the same
});
