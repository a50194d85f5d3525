// What the pages gain from a script: the pointer's figures on charts, filters that act at once, and new data.
"use strict";

// As the tables write them: in the page's locale, with Latin digits, and signs between all groups of three.
const locale = document.body.dataset.locale + "-u-nu-latn";

function figure(value, percent) {
  if (value === null || value === undefined) return "–";
  const written = options => value.toLocaleString(locale, { useGrouping: "always", ...options });
  if (percent) return written({ style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
  // Digits by size: 12,345 but 0.0032.
  const size = Math.abs(value);
  return written(size >= 10 || size === 0 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 2 });
}

for (const chart of document.querySelectorAll("figure[data-chart]")) {
  const data = JSON.parse(chart.dataset.chart);
  const last = data.weeks.length - 1;
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  chart.append(tip);
  // One chart is two pictures, of which one is shown: wide, and narrow for phones.
  for (const svg of chart.querySelectorAll("svg")) {
    const pointer = svg.querySelector(".pointer");
    const left = Number(svg.dataset.left), right = Number(svg.dataset.right), width = svg.viewBox.baseVal.width;
    let shown = -1;

    const show = index => {
      shown = Math.max(0, Math.min(last, index));
      const x = left + (right - left) * shown / Math.max(last, 1);
      pointer.setAttribute("x1", x);
      pointer.setAttribute("x2", x);
      pointer.style.visibility = "visible";
      const head = document.createElement("b");
      head.textContent = data.weeks[shown] + (data.marks[shown] ? " · " + data.marks[shown] : "");
      tip.replaceChildren(head);
      const lines = data.lines.map(l => [l.name, figure(l.values[shown], data.percent)]);
      const bands = data.bands.map(b => [b.name,
        b.low[shown] === null ? "–" : figure(b.low[shown], data.percent) + " – " + figure(b.high[shown], data.percent)]);
      for (const [name, value] of [...lines, ...bands]) {
        if (value === "–") continue;
        const row = document.createElement("span");
        row.append(Object.assign(document.createElement("i"), { textContent: name }));
        row.append(Object.assign(document.createElement("em"), { textContent: value }));
        tip.append(row);
      }
      tip.hidden = false;
      const at = x / width * svg.clientWidth;
      tip.style.left = Math.max(0, at > svg.clientWidth / 2 ? at - tip.offsetWidth - 12 : at + 12) + "px";
    };
    const hide = () => {
      pointer.style.visibility = "hidden";
      tip.hidden = true;
      shown = -1;
    };
    svg.addEventListener("pointermove", event => {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * width;
      show(Math.round((x - left) / (right - left) * last));
    });
    svg.addEventListener("pointerleave", hide);
    svg.tabIndex = 0;
    svg.addEventListener("keydown", event => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) {
        event.preventDefault();
        show(shown < 0 ? last : shown + step);
      } else if (event.key === "Escape") hide();
    });
    svg.addEventListener("blur", hide);
  }
}

// Tables wider than the screen say that there is more to the side, until it was seen.
for (const box of document.querySelectorAll(".scroll")) {
  const look = () => {
    if (box.scrollWidth - box.clientWidth - box.scrollLeft > 8) box.dataset.more = document.body.dataset.more;
    else delete box.dataset.more;
  };
  box.addEventListener("scroll", look, { passive: true });
  new ResizeObserver(look).observe(box);
}

for (const form of document.querySelectorAll("form.filters")) {
  // A list's choice acts at once; what is typed waits for Enter, since another field may follow.
  form.addEventListener("change", event => { if (event.target.matches("select")) form.requestSubmit(); });
  // Empty choices have no place in an address that is passed on.
  form.addEventListener("formdata", event => {
    for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
  });
}

// Of more names than a page holds, those like what is typed.
for (const input of document.querySelectorAll("input[data-names]")) {
  input.addEventListener("input", async () => {
    const typed = input.value;
    const answer = await fetch(input.dataset.names + "&like=" + encodeURIComponent(typed));
    if (!answer.ok || input.value !== typed) return;
    input.list.replaceChildren(...(await answer.json()).map(
      ({ value, label }) => Object.assign(document.createElement("option"), label === value ? { value } : { value, label })));
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
