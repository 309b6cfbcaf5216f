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

// An upload shows how far it is. What the box answers is where to go on, or why not.
for (const form of document.querySelectorAll("form[data-upload]")) {
  const bar = form.querySelector("[data-progress]");
  const problem = form.querySelector("[data-problem]");
  const button = form.querySelector("button");
  const fail = (text) => {
    problem.textContent = text || problem.dataset.failed;
    problem.hidden = false;
    bar.hidden = true;
    button.disabled = false;
  };
  form.addEventListener("submit", (event) => {
    if (!form.querySelector("input[type=file]").files.length) return;
    event.preventDefault();
    const request = new XMLHttpRequest();
    request.open("POST", form.action);
    request.responseType = "document";
    request.upload.onprogress = ({ loaded, total }) => {
      bar.querySelector("progress").value = total ? loaded / total : 0;
      bar.querySelector("p").textContent = `${Math.floor(total ? (100 * loaded) / total : 0)} %`;
    };
    request.onerror = () => fail();
    request.onload = () => {
      if (request.status === 200) location.assign(request.responseURL);
      else fail(request.response?.querySelector("#main p")?.textContent);
    };
    problem.hidden = true;
    bar.hidden = false;
    button.disabled = true;
    request.send(new FormData(form));
  });
}
