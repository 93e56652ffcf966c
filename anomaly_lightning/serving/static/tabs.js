"use strict";
// Two tabs by the part of the address behind #; whoever shows one hears "tab" with its name.

const TABS = ["inspect", "review"];

function route() {
  const name = location.hash.slice(1);
  if (!TABS.includes(name)) return;  // the link that skips to the content
  for (const one of TABS) $(`${one}-tab`).hidden = one !== name;
  for (const link of $("tabs").children) {
    if (link.hash === location.hash) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  dispatchEvent(new CustomEvent("tab", { detail: name }));
}

addEventListener("hashchange", route);
addEventListener("load", route);
