// Light refresh and charts. Pages work without it, except that charts are then their tables only.
"use strict";
(() => {
  // one colour per component, in the order of COMPONENTS in views.py; the whole gate is the first
  const COLOURS = ["#1B1F24", "#1F5FBF", "#A34A00", "#7A1FA2", "#00695C", "#9C1458", "#5D4037", "#4A5260", "#6B7280"];
  const DASHES = [[], [6, 4], [2, 3], [10, 3, 2, 3]];
  const live = document.getElementById("live");
  const lost = document.getElementById("lost");
  let paused = false;
  let lastGood = new Date();

  function percent(p) {
    if (p === null || p === undefined) return "–";
    if (p < 0.01) return "< 1 %";
    return p > 0.99 ? "> 99 %" : `${(p * 100).toFixed(0)} %`;
  }

  function lineOf(series) {
    return {
      label: series.label,
      stroke: COLOURS[series.colour],
      width: series.main ? 4 : 1.75,
      dash: DASHES[series.dash % DASHES.length],
      spanGaps: true,
    };
  }

  function verticalMark(plot, x, label, at) {
    const left = plot.valToPos(x, "x", true);
    if (left < plot.bbox.left || left > plot.bbox.left + plot.bbox.width) return;
    const ctx = plot.ctx;
    ctx.save();
    ctx.strokeStyle = "#6B7280";
    ctx.fillStyle = "#1B1F24";
    ctx.setLineDash([3, 3]);
    ctx.beginPath();
    ctx.moveTo(left, plot.bbox.top);
    ctx.lineTo(left, plot.bbox.top + plot.bbox.height);
    ctx.stroke();
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    const toLeft = left > plot.bbox.left + plot.bbox.width * 0.7;
    ctx.textAlign = toLeft ? "right" : "left";
    ctx.fillText(label, left + (toLeft ? -4 : 4) * devicePixelRatio, plot.bbox.top + (12 + 13 * at) * devicePixelRatio);
    ctx.restore();
  }

  function forecastOptions(data) {
    return {
      scales: { x: { time: false, range: [1, 21] }, y: { range: [0, 1] } },
      axes: [
        { label: data.x_label, labelSize: 18, size: 34, values: (_, days) => days.map(String), splits: () => [1, 3, 5, 7, 9, 11, 14, 17, 21] },
        { size: 58, values: (_, ps) => ps.map((p) => `${Math.round(p * 100)} %`) },
      ],
      series: [{ label: data.x_label }, ...data.series.map((one) => ({
        ...lineOf(one),
        points: { show: false },
        value: (_, p) => percent(p),
      }))],
      hooks: {
        draw: [(plot) => {
          if (data.threshold === null) return;
          const left = plot.valToPos(14, "x", true);
          const top = plot.valToPos(data.threshold, "y", true);
          const ctx = plot.ctx;
          ctx.save();
          ctx.strokeStyle = "#B3001B";
          ctx.fillStyle = "#B3001B";
          ctx.lineWidth = 2 * devicePixelRatio;
          ctx.setLineDash([]);
          ctx.beginPath();
          ctx.moveTo(left - 14 * devicePixelRatio, top);
          ctx.lineTo(left + 14 * devicePixelRatio, top);
          ctx.stroke();
          ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
          ctx.textAlign = "right";
          ctx.fillText(data.threshold_label, left - 18 * devicePixelRatio, top + 4 * devicePixelRatio);
          ctx.restore();
        }],
      },
    };
  }

  function timeOptions(data, all) {
    const range = [all.from_s, all.to_s];
    return {
      tzDate: (s) => uPlot.tzDate(new Date(s * 1e3), all.zone),
      scales: { x: { range: () => range }, y: { range: (_, low, high) => (low === null ? [0, 1] : [Math.min(0, low), high + (high - Math.min(0, low)) * 0.12 + 0.1]) } },
      axes: [
        { size: 34, values: [[86400, "{MM}-{DD}", null, null, null, null, null, null, 0], [3600, "{HH}:{mm}", "\n{MM}-{DD}", null, null, null, null, null, 1]] },
        { size: 50 },
      ],
      series: [{ label: all.time, value: "{YYYY}-{MM}-{DD} {HH}:{mm}" }, ...data.series.map((one) => ({
        ...lineOf(one),
        points: { show: true, size: 5 },
        value: (_, v) => (v === null || v === undefined ? "–" : `${v.toFixed(data.unit === "mm/s" ? 2 : 1)} ${data.unit}`),
      }))],
      hooks: { draw: [(plot) => all.marks.forEach((mark, i) => verticalMark(plot, mark.s, mark.label, i % 3))] },
    };
  }

  function drawCharts() {
    const holder = document.getElementById("charts");
    if (!holder) return;
    const all = JSON.parse(holder.textContent);
    for (const box of document.querySelectorAll("[data-chart]")) {
      const data = all[box.dataset.chart];
      const options = box.dataset.chart === "forecast" ? forecastOptions(data) : timeOptions(data, all);
      const size = { width: Math.max(320, box.clientWidth), height: box.dataset.chart === "forecast" ? 230 : 190 };
      const values = [data.x, ...data.series.map((one) => one.y)];
      // the legend tells day 14, or the newest values, until a pointer asks for another
      options.hooks.ready = [(plot) => plot.setLegend({ idx: box.dataset.chart === "forecast" ? 13 : data.x.length - 1 })];
      new uPlot({ ...size, ...options, cursor: { drag: { x: false, y: false } } }, values, box);
    }
  }

  function hhmm(instant) {
    return instant.toTimeString().slice(0, 5);
  }

  async function refresh() {
    if (paused || document.hidden || live.querySelector("input:focus, select:focus")) return;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "error", cache: "no-store" });
      if (!answer.ok) throw new Error(String(answer.status));
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
      const focused = document.activeElement && document.activeElement.id;
      live.replaceChildren(...fresh.childNodes);
      if (focused) document.getElementById(focused)?.focus();
      lastGood = new Date();
      lost.hidden = true;
      document.body.classList.remove("is-lost");
      drawCharts();
    } catch {
      lost.textContent = lost.dataset.text.replace("{time}", hhmm(lastGood));
      lost.hidden = false;
      document.body.classList.add("is-lost");
    }
  }

  function showPause() {
    const button = document.getElementById("pause");
    button.hidden = false;
    button.textContent = paused ? button.dataset.resume : button.dataset.pause;
    button.onclick = () => {
      paused = !paused;
      showPause();
      if (!paused) refresh();
    };
  }

  drawCharts();
  if (live.dataset.refreshS) {
    showPause();
    setInterval(refresh, Number(live.dataset.refreshS) * 1000);
  }
})();
