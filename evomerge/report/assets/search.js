// The search and the experts.

let byTime = false;

function drawSearch() {
  const s = D.search;
  const x = byTime ? s.seconds : s.evaluations;
  const lines = [{
    type: "scatter", mode: "lines", x, y: s.hypervolume, line: { color: css("--accent"), width: 2.2, shape: "hv" }, name: "this search",
    hovertemplate: `%{y:.4f} after %{x:.4~g}${byTime ? " s" : " evaluations"}<extra></extra>`,
  }];
  D.rivals.forEach((rival, n) => lines.push({
    type: "scatter", mode: "lines", x: byTime ? rival.seconds : rival.evaluations, y: rival.hypervolume,
    line: { color: PARTS()[1 + n % 5], width: 1.8, dash: "dash", shape: "hv" }, name: plain(rival.name),
    hovertemplate: `%{y:.4f}<extra>${plain(rival.name)}</extra>`,
  }));
  const shape = layout({
    xaxis: { title: { text: byTime ? "seconds of running time" : "evaluations spent" }, rangemode: "tozero" },
    yaxis: { title: { text: "hypervolume, search items" }, rangemode: "tozero" },
    showlegend: D.rivals.length > 0, legend: { orientation: "h", y: 1.1, font: { color: css("--ink") } },
  });
  shape.shapes = [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: s.baselines, y1: s.baselines, line: { color: css("--soft"), dash: "dot", width: 1.4 } }];
  shape.annotations = [{ xref: "paper", x: 1, y: s.baselines, text: "all baselines together", showarrow: false, xanchor: "right", yanchor: "bottom", font: { size: 11.5, color: css("--soft") } }];
  Plotly.react(byId("search-plot"), lines, shape, CONFIG);

  const gains = byId("stages");
  gains.replaceChildren();
  partBars(gains, "hypervolume gained by stage", s.stages.map((each) => [each.name, [["gain", Math.max(0, each.gain)]]]), { gain: css("--accent") }, (v) => v.toFixed(4));

  const time = byId("time");
  time.replaceChildren();
  if (D.time.length) {
    const phases = [...new Set(D.time.map(([, phase]) => phase))];
    const colors = Object.fromEntries(phases.map((phase, k) => [phase, PARTS()[k % 6]]));
    const parts = [...new Set(D.time.map(([part]) => part))];
    partBars(time, "seconds by phase", parts.map((part) => [part, D.time.filter(([own]) => own === part).map(([, phase, seconds]) => [phase, seconds])]), colors, duration);
    keys(time, colors);
  }
}

function drawExperts() {
  const vectors = D.taskVectors, place = byId("experts-maps");
  if (vectors && place) {
    const layers = vectors.layers.map(shortLayer);
    const norms = byId("norms"), cosines = byId("cosines"), overall = byId("overall");
    const most = Math.max(...vectors.norms.flat(), 1e-12);
    norms.replaceChildren();
    heatMap(norms, "norms of task vectors", vectors.experts, layers, vectors.norms, (v) => amount(v / most));
    overall.replaceChildren();
    heatMap(overall, "cosines of task vectors", vectors.experts, vectors.experts, vectors.overall, signed, { high: 30, write: (v) => v.toFixed(2) });
    cosines.replaceChildren();
    heatMap(cosines, "cosines by layer", vectors.pairs, layers, vectors.cosines, signed, { write: (v) => v.toFixed(2) });
    const signs = byId("signs");
    if (D.signs && signs) {
      signs.replaceChildren();
      heatMap(signs, "conflicts of signs by layer", D.signs.pairs, D.signs.layers.map(shortLayer), D.signs.large, (v) => signed(2 * v - 1), { write: (v) => `${Math.round(100 * v)} %` });
    }
  }
  const influence = D.influence, maps = byId("influence-maps");
  if (!influence || !maps) return;
  maps.replaceChildren();
  for (const [metric, found] of Object.entries(influence.metrics)) {
    const box = el("div", { class: "card" }, el("h3", {}, metric));
    maps.append(box);
    const sure = (r, c) => found.low[r][c] > 0 || found.high[r][c] < 0;
    const most = Math.max(...found.effect.flat().map((v) => Math.abs(v || 0)), 1e-12);
    heatMap(box, `influence on ${metric}`, influence.rows.map((r) => r.replace(/^weight /, "")), influence.layers.map(shortLayer), found.effect, (v) => signed(v / most), {
      mark: (v, r, c) => (sure(r, c) ? "●" : ""),
      tell: (v, r, c) => `${number(v, 2)} [${number(found.low[r][c], 2)}, ${number(found.high[r][c], 2)}]`,
    });
    box.append(el("p", { class: "small" }, `Explains ${Math.max(0, Math.round(100 * found.explained))} % of the variance of candidates left out. ● marks intervals without 0.`));
  }
}
