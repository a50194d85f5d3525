// What the pages gain from a script: the pointer's figures on charts, filters that act at once, and new data.
"use strict";

function figure(value, percent) {
  if (value === null || value === undefined) return "–";
  return percent ? (value * 100).toFixed(1) + "%" : Math.round(value).toLocaleString("en");
}

for (const chart of document.querySelectorAll("figure[data-chart]")) {
  const data = JSON.parse(chart.dataset.chart);
  const svg = chart.querySelector("svg");
  const pointer = svg.querySelector(".pointer");
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  chart.append(tip);
  let shown = -1;

  function show(index) {
    shown = Math.max(0, Math.min(data.weeks.length - 1, index));
    const x = data.left + (data.right - data.left) * shown / Math.max(data.weeks.length - 1, 1);
    pointer.setAttribute("x1", x);
    pointer.setAttribute("x2", x);
    pointer.style.visibility = "visible";
    tip.replaceChildren();
    const head = document.createElement("b");
    head.textContent = data.weeks[shown] + (data.marks[shown] ? " · " + data.marks[shown] : "");
    tip.append(head);
    const rows = data.lines.map(l => [l.name, figure(l.values[shown], data.percent)])
      .concat(data.bands.map(b => [b.name, b.low[shown] === null ? "–" : figure(b.low[shown]) + " – " + figure(b.high[shown])]));
    for (const [name, value] of rows) {
      if (value === "–") continue;
      const row = document.createElement("span");
      row.append(Object.assign(document.createElement("i"), { textContent: name, style: "" }), Object.assign(document.createElement("em"), { textContent: value }));
      tip.append(row);
    }
    tip.hidden = false;
    const left = x / svg.viewBox.baseVal.width * svg.clientWidth;
    tip.style.left = (left > svg.clientWidth / 2 ? left - tip.offsetWidth - 12 : left + 12) + "px";
  }
  function hide() {
    pointer.style.visibility = "hidden";
    tip.hidden = true;
    shown = -1;
  }
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    show(Math.round((x - data.left) / (data.right - data.left) * (data.weeks.length - 1)));
  });
  svg.addEventListener("pointerleave", hide);
  svg.tabIndex = 0;
  svg.addEventListener("keydown", event => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) {
      event.preventDefault();
      show(shown < 0 ? data.weeks.length - 1 : shown + step);
    } else if (event.key === "Escape") hide();
  });
  svg.addEventListener("blur", hide);
}

for (const form of document.querySelectorAll("form.filters")) {
  // A list's choice acts at once; what is typed waits for Enter, since another field may follow.
  form.addEventListener("change", event => { if (event.target.matches("select")) form.requestSubmit(); });
  // Empty choices have no place in an address that is passed on.
  form.addEventListener("formdata", event => {
    for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
  });
}

const { version, versionUrl } = document.body.dataset;
if (version) {
  setInterval(async () => {
    if (document.hidden) return;
    try {
      const answer = await (await fetch(versionUrl)).json();
      if (answer.version === version) return;
      const busy = document.activeElement && document.activeElement.closest("form, details, svg");
      if (busy || window.scrollY > 200) document.getElementById("fresh").hidden = false;
      else location.reload();
    } catch { /* the server is away; the next look may find it */ }
  }, 10000);
}
