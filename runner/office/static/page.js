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
    if (held.content.querySelector("[data-over]")) {
      location.reload(); // its files and its report are there now
      return;
    }
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

// An upload comes in pieces: one that is cut off goes on where it ended, by itself for some minutes.
const PIECE_BYTES = 8 * 1024 * 1024;
const TRIES = 12; // in a row without a byte more
const LONGEST_MS = 30000;

// Ask once; null: no answer came.
const ask = (method, way, body, offset, onprogress) =>
  new Promise((resolve) => {
    const request = new XMLHttpRequest();
    request.open(method, way);
    if (body) request.setRequestHeader("Upload-Offset", offset);
    if (onprogress) request.upload.onprogress = onprogress;
    request.onload = () => resolve(request);
    request.onerror = request.ontimeout = request.onabort = () => resolve(null);
    request.send(body);
  });
const said = (answer) => {
  try { return JSON.parse(answer.responseText); } catch { return {}; }
};
const reason = (answer) =>
  new DOMParser().parseFromString(answer.responseText, "text/html").querySelector("#main p")?.textContent;
const passes = (answer) => answer === null || [408, 429, 502, 503, 504].includes(answer.status);

// Send a file; give its path on the box, or throw the reason why not. `known` remembers, from one
// press of the button to the next, what has arrived.
async function send(file, known, show) {
  for (let tries = 0; tries < TRIES; tries += 1) {
    if (tries) {
      show(null);
      await new Promise((resolve) => { setTimeout(resolve, Math.min(LONGEST_MS, 500 * 2 ** tries)); });
    }
    let answer = known.way
      ? await ask("GET", known.way)
      : await ask("POST", `/upload/pieces?${new URLSearchParams({ name: file.name, size: file.size })}`);
    if (answer?.status === 404 && known.way) { // the box was started again: from the beginning
      known.way = "";
      continue;
    }
    while (answer && answer.status < 300) {
      const { way, has, path } = said(answer);
      if (path) return path;
      known.way = way;
      const before = has;
      answer = await ask("PUT", way, file.slice(has, has + PIECE_BYTES), has, ({ loaded }) =>
        show(Math.min(1, (has + loaded) / file.size)));
      if (answer && answer.status < 300 && said(answer).has > before) tries = 0;
    }
    if (!passes(answer) && answer.status !== 409) throw new Error(reason(answer) || "");
    if (answer?.status === 409 && !("has" in said(answer))) throw new Error(reason(answer) || "");
  }
  throw new Error("");
}

for (const form of document.querySelectorAll("form[data-upload]")) {
  const bar = form.querySelector("[data-progress]");
  const problem = form.querySelector("[data-problem]");
  const button = form.querySelector("button");
  let known = {};
  const show = (share) => {
    if (share !== null) bar.querySelector("progress").value = share;
    bar.querySelector("p").textContent =
      share === null ? bar.dataset.waiting : `${Math.floor(100 * share)} %`;
  };
  form.addEventListener("submit", async (event) => {
    const file = form.querySelector("input[type=file]").files[0];
    if (!file) return;
    event.preventDefault();
    if (known.file !== file) known = { file, way: "" };
    problem.hidden = true;
    bar.hidden = false;
    button.disabled = true;
    show(0);
    try {
      const data = await send(file, known, show);
      location.assign(`/drop/job?${new URLSearchParams({ model: form.elements.model.value, data })}`);
    } catch (error) {
      problem.textContent = error.message || problem.dataset.failed;
      problem.hidden = false;
      bar.hidden = true;
      button.disabled = false;
    }
  });
}
