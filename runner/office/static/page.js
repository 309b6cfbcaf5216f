// Parts of a page that renew themselves. Without this script a page shows how things stood when it
// was loaded, and everything can be done all the same.
"use strict";

for (const part of document.querySelectorAll("[data-live]")) {
  const source = new EventSource(part.dataset.live);
  source.onmessage = (event) => {
    const before = part.innerHTML;
    const held = document.createElement("template");
    held.innerHTML = event.data; // from this box, where every text in it was escaped
    if (held.innerHTML === before.trim()) return;
    // What the reader has opened stays open, and where the keyboard is stays.
    const open = [...part.querySelectorAll("details")].map((one) => one.open);
    const focus = part.contains(document.activeElement)
      ? [...part.querySelectorAll("a, button, summary")].indexOf(document.activeElement)
      : -1;
    part.replaceChildren(held.content);
    part.querySelectorAll("details").forEach((one, place) => { one.open = open[place] ?? false; });
    if (focus >= 0) part.querySelectorAll("a, button, summary")[focus]?.focus();
  };
  addEventListener("pagehide", () => source.close());
}
