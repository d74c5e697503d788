"use strict";
const known = JSON.parse(document.getElementById("known").textContent);
const tip = document.getElementById("tip");
const thumbnail = tip.querySelector(".thumbnail");
const words = tip.querySelector(".words");

function show(event, text) {
  words.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = event.clientX + 16 + box.width > innerWidth ? event.clientX - box.width - 16 : event.clientX + 16;
  const top = Math.min(event.clientY + 12, innerHeight - box.height - 8);
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

function hide() {
  tip.hidden = true;
  thumbnail.hidden = true;
}

function element(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function follow(figure) {
  const chart = known.charts[figure.dataset.chart];
  const svg = figure.querySelector("svg");
  if (!svg || !chart || !chart.points.length) return;
  const layer = element("g", {});
  svg.append(layer);
  svg.addEventListener("pointermove", (event) => {
    const x = (event.clientX - svg.getBoundingClientRect().left) * chart.width / svg.getBoundingClientRect().width;
    const distance = (point) => Math.abs(point[0] - x);
    const nearest = chart.points.reduce((best, point) => (distance(point) < distance(best) ? point : best));
    const lines = [nearest[1]];
    layer.replaceChildren(element("path", { class: "cursor", d: `M${nearest[0]} ${chart.top}V${chart.bottom}` }));
    nearest[2].forEach((mark, number) => {
      if (!mark) return;
      layer.append(element("circle", { class: `spot c${number}`, cx: nearest[0], cy: mark[0], r: 4.5 }));
      lines.push(`${chart.names[number]}: ${mark[1]}`);
    });
    show(event, lines.join("\n"));
  });
  svg.addEventListener("pointerleave", () => {
    layer.replaceChildren();
    hide();
  });
}

function explore(figure) {
  const { columns, cell, width, height, captions } = known.map;
  const enlarged = Math.max(1, Math.round(112 / cell));
  thumbnail.style.width = thumbnail.style.height = `${cell * enlarged}px`;
  thumbnail.style.backgroundSize = `${width * enlarged}px ${height * enlarged}px`;
  thumbnail.style.imageRendering = cell < 32 ? "pixelated" : "auto";
  // The browser's own hint would lie over ours.
  figure.querySelectorAll("title").forEach((title) => title.remove());
  figure.addEventListener("pointermove", (event) => {
    const number = Number(event.target.dataset.point ?? -1);
    if (number < 0) return hide();
    const column = number % columns;
    const row = Math.floor(number / columns);
    thumbnail.style.backgroundPosition = `-${column * cell * enlarged}px -${row * cell * enlarged}px`;
    thumbnail.hidden = false;
    show(event, captions[number]);
  });
  figure.addEventListener("pointerleave", hide);
}

function choose(entry) {
  const figure = document.querySelector(".map");
  const points = figure.querySelectorAll(`[data-mark="${entry.dataset.mark}"]`);
  entry.addEventListener("pointerenter", () => {
    figure.classList.add("faded");
    points.forEach((point) => point.classList.add("chosen"));
  });
  entry.addEventListener("pointerleave", () => {
    figure.classList.remove("faded");
    points.forEach((point) => point.classList.remove("chosen"));
  });
}

function copyable(code) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  code.after(button);
}

document.querySelectorAll("[data-chart]").forEach(follow);
if (known.map) {
  explore(document.querySelector(".map"));
  document.querySelectorAll("#map .legend [data-mark]").forEach(choose);
}
if (navigator.clipboard) document.querySelectorAll(".commands code").forEach(copyable);
document.documentElement.dataset.ready = "yes";
