"use strict";

const numberOf = (cell) => {
  const value = Number.parseFloat(cell.dataset.value ?? cell.textContent);
  return Number.isNaN(value) ? null : value;
};

// Numbers sort by value, other cells as text; empty cells stay at the end in both orders.
const compareCells = (one, other, sign) => {
  const [a, b] = [numberOf(one), numberOf(other)];
  const texts = [one, other].map((cell) => cell.textContent.trim());
  const empty = texts.map((text) => text === "–" || text === "");
  if (empty[0] || empty[1]) return empty[0] - empty[1];
  const numeric = a !== null && b !== null && texts.every((text) => /^[-+\d.,]+$/.test(text));
  return sign * (numeric ? a - b : texts[0].localeCompare(texts[1]));
};

for (const button of document.querySelectorAll("button.sort")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const order = heading.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
    const body = heading.closest("table").tBodies[0];
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...body.rows].sort((a, b) => compareCells(a.cells[heading.cellIndex], b.cells[heading.cellIndex], sign));
    body.append(...rows);
  });
}

for (const input of document.querySelectorAll("input[data-filters]")) {
  const target = document.getElementById(input.dataset.filters);
  const items = [...(target.tBodies?.[0].rows ?? target.querySelectorAll("details"))];
  const shown = input.parentElement.querySelector("output");
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLocaleLowerCase();
    for (const item of items) item.hidden = !item.textContent.toLocaleLowerCase().includes(wanted);
    shown.textContent = `${items.filter((item) => !item.hidden).length} of ${items.length}`;
  });
}

const inFull = (share) => (share === null ? "–" : (share / 1000).toFixed(3));

// Offsets are code points, as everywhere in Spanmill, but strings of JavaScript are UTF-16.
const colour = (text, tokens) => {
  const letters = Array.from(text.textContent);
  const coloured = document.createElement("span");
  coloured.className = "text coloured";
  let done = 0;
  for (const [start, end, startShare, endShare] of tokens) {
    if (start < done) continue;
    coloured.append(letters.slice(done, start).join(""));
    const token = document.createElement("span");
    token.className = "token";
    token.textContent = letters.slice(start, end).join("");
    token.style.setProperty("--start", `${Math.sqrt(startShare / 1000) * 60}%`);
    token.style.setProperty("--end", `${Math.sqrt(endShare / 1000) * 60}%`);
    token.title = `start ${inFull(startShare)}, end ${inFull(endShare)}`;
    coloured.append(token);
    done = end;
  }
  coloured.append(letters.slice(done).join(""));
  return coloured;
};

const likeliest = (parts) => {
  const tokens = parts.flatMap(({ text, tokens }) =>
    tokens.map(([start, end, startShare, endShare]) => [
      Array.from(text).slice(start, end).join(""),
      startShare,
      endShare,
    ]));
  tokens.sort((a, b) => Math.max(b[1], b[2]) - Math.max(a[1], a[2]));
  const table = document.createElement("table");
  table.className = "tokens";
  table.createCaption().textContent =
    "The likeliest tokens (–: not among the likeliest of that network). " +
    "In the passage: upper half start, lower half end.";
  const head = table.createTHead().insertRow();
  for (const name of ["token", "start", "end"]) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = name;
    head.append(cell);
  }
  const body = table.createTBody();
  for (const [token, start, end] of tokens.slice(0, 10)) {
    const row = body.insertRow();
    const isolated = document.createElement("bdi");
    isolated.textContent = token;
    row.insertCell().append(isolated);
    row.insertCell().textContent = inFull(start);
    row.insertCell().textContent = inFull(end);
  }
  return table;
};

for (const button of document.querySelectorAll("button.heat")) {
  button.addEventListener("click", () => {
    const pressed = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", pressed);
    const example = button.closest("details");
    const parts = [];
    for (const line of example.querySelectorAll("p[data-tokens]")) {
      const marked = line.querySelector(".text:not(.coloured)");
      const tokens = JSON.parse(line.dataset.tokens);
      parts.push({ text: marked.textContent, tokens });
      marked.hidden = pressed;
      if (pressed) marked.after(colour(marked, tokens));
      else line.querySelector(".coloured").remove();
    }
    if (pressed) button.after(likeliest(parts));
    else example.querySelector("table.tokens").remove();
  });
}
