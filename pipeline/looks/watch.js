"use strict";

const POLL_MILLISECONDS = 1000;

const setText = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};

// Texts of the corpus may run from right to left, whatever the page does.
const cell = (tag, text) => {
  const element = document.createElement(tag);
  const isolated = document.createElement("bdi");
  isolated.textContent = text;
  element.append(isolated);
  return element;
};

const setRows = (table, rows) => {
  const body = table.tBodies[0];
  const shown = JSON.stringify(rows);
  if (body.dataset.shown === shown) return;
  body.dataset.shown = shown;
  body.replaceChildren(...rows.map(([name, ...values]) => {
    const row = document.createElement("tr");
    const heading = cell("th", name);
    heading.scope = "row";
    row.append(heading, ...values.map((value) => cell("td", value)));
    return row;
  }));
};

const setFigures = (list, figures) => {
  if (list.children.length !== figures.length) {
    list.replaceChildren(...figures.map(([name]) => {
      const card = document.createElement("div");
      card.className = "card";
      const value = document.createElement("dd");
      value.append(document.createElement("strong"));
      card.append(cell("dt", name), value);
      return card;
    }));
  }
  figures.forEach(([, value], index) => setText(list.children[index].querySelector("strong"), value));
};

const show = (state) => {
  setText(document.getElementById("title"), state.stage ? `Watch ${state.stage}` : "Watch");
  setText(document.querySelector("#folder bdi"), state.folder);
  setText(document.getElementById("state"), state.state);
  document.getElementById("share").value = state.share ?? 0;
  setFigures(document.getElementById("figures"), state.figures);
  setText(document.getElementById("covered"), state.covered);
  setRows(document.querySelector("#outcomes table"),
    state.accounting.map(([name, count]) => [name, count.toLocaleString("en")]));
  setRows(document.querySelector("#answers table"), state.answers);
  const percent = state.share === null ? "" : `${Math.floor(100 * state.share)} % – `;
  document.title = `${percent}Watch – Spanmill`;
};

const pause = document.getElementById("pause");
pause.addEventListener("click", () => {
  const pressed = pause.getAttribute("aria-pressed") !== "true";
  pause.setAttribute("aria-pressed", pressed);
});

const poll = async () => {
  if (pause.getAttribute("aria-pressed") !== "true") {
    try {
      const response = await fetch("state.json");
      if (!response.ok) throw new Error(response.statusText);
      show(await response.json());
    } catch {
      setText(document.getElementById("state"), "the watching command has ended: these figures are the last");
    }
  }
  setTimeout(poll, POLL_MILLISECONDS);
};
poll();
