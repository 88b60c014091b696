// The front: pairs, three dimensions, a matrix, parallel coordinates; what a person prefers, and the pick.

const view = { kind: "pair", x: 0, y: 1, z: 2, color: "mean", errors: true, others: false, split: null };

// Row of the front that is best for the weights, as `prefer:` picks it: by the augmented Chebyshev function (Steuer
// and Choo 1983), and where rows are better than the ideal in all that has weight as `distances` in
// `objectives/pareto.py` says; `allowed`: rows to choose from. -1 if there is none.
function preferredRow(scaled, weights, allowed) {
  const sum = weights.reduce((a, b) => a + b, 0);
  const shares = weights.map((w) => w / sum);
  const count = shares.filter((w) => w > 0).length;
  let best = -1, least = Infinity;
  for (const row of allowed) {
    let most = -Infinity, better = -Infinity, total = 0;
    scaled[row].forEach((g, k) => {
      if (!(shares[k] > 0)) return;
      const weighted = g * shares[k], own = shares[k] * count;
      most = Math.max(most, weighted);
      better = Math.max(better, weighted / (own * own));
      total += weighted;
    });
    const value = (better < 0 ? better : most) + 1e-3 * total;
    if (value < least) [best, least] = [row, value];
  }
  return best;
}

function score(index, k, split) {
  const column = D.models.scores[split];
  return column ? column[k][index] : null;
}
function indexOf(id) {
  return D.index.get(id);
}
function decided(index, k) {
  return score(index, k, D.split) || score(index, k, "search");
}

function readWishes() {
  const weights = D.objectives.map((_, k) => Number(byId(`wish-${k}`).value));
  const bounds = D.objectives.map((_, k) => {
    const text = byId(`bound-${k}`).value;
    return text === "" ? null : Number(text);
  });
  return { weights, bounds };
}

function keepsBounds(row, bounds) {
  return D.objectives.every((o, k) => {
    if (bounds[k] === null) return true;
    const [value, error] = score(row, k, D.split);
    const limit = o.percent ? bounds[k] / 100 : bounds[k];
    return o.sign < 0 ? value - 1.645 * error >= limit : value + 1.645 * error <= limit;
  });
}

function wishedPick(weights, bounds, id) {
  const level = weights.every((w) => w === weights[0]);
  const bound = D.objectives.flatMap((o, k) => {
    if (bounds[k] === null) return [];
    const limit = o.percent ? Number((bounds[k] / 100).toPrecision(12)) : bounds[k];
    return [`${o.metric}${o.sign < 0 ? ">=" : "<="}${limit}`];
  });
  if (bound.length) return level ? bound.join(",") : id;
  return level ? "knee" : "prefer:" + D.objectives.map((o, k) => `${o.metric}=${weights[k]}`).join(",");
}

function wish() {
  const { weights, bounds } = readWishes();
  const sum = weights.reduce((a, b) => a + b, 0);
  D.objectives.forEach((_, k) => {
    byId(`share-${k}`).textContent = sum ? `${Math.round(100 * weights[k] / sum)} %` : "0 %";
  });
  const rows = D.models.scaled.map((_, row) => row).filter((row) => keepsBounds(row, bounds));
  D.allowed = new Set(rows);
  byId("kept").textContent = bounds.every((b) => b === null)
    ? "" : `${rows.length} of ${D.models.scaled.length} members keep these bounds.`;
  const row = sum > 0 ? preferredRow(D.models.scaled, weights, rows) : -1;
  if (row < 0) {
    byId("wished").textContent = sum > 0 ? "No member keeps these bounds: loosen them." : "Give at least one objective some weight.";
    byId("wished-command").textContent = "";
    drawFront();
    return;
  }
  const id = D.models.id[row];
  byId("wished").textContent = id;
  byId("wished-command").textContent = command(wishedPick(weights, bounds, id));
  choose(id);
}

function hover(index) {
  const m = D.models;
  const lines = [`${plain(m.id[index])} ${plain(m.label[index])}`];
  D.objectives.forEach((o, k) => {
    const found = decided(index, k);
    if (found) lines.push(`${plain(o.metric)} ${shown(o, found[0])} ± ${shown(o, found[1])}${unit(o)}`);
  });
  if (m.probability[index] !== null) lines.push(`P(non-dominated) ${m.probability[index].toFixed(2)}`);
  return lines.join("<br>");
}

function colorValues(rows) {
  const m = D.models;
  const kind = view.color;
  if (kind === "mean") {
    const n = D.objectives.length;
    if (D.objectives.every((o) => o.percent && o.sign < 0)) return rows.map((i) => D.objectives.reduce((a, _, k) => a + 100 * decided(i, k)[0], 0) / n);
    return rows.map((i) => -D.models.scaled[i].reduce((a, b) => a + b, 0) / n);
  }
  if (kind === "probability") return rows.map((i) => m.probability[i]);
  if (kind === "order") return rows.map((i) => m.batch[i]);
  if (kind.startsWith("o")) {
    const k = Number(kind.slice(1));
    return rows.map((i) => onScale(D.objectives[k], decided(i, k)[0]));
  }
  const gene = Number(kind.slice(1));
  return rows.map((i) => { const own = D.genes.values[m.id[i]]; return own ? own[gene] : null; });
}
function colorName() {
  const select = byId("color");
  return select.options[select.selectedIndex].textContent;
}

function marks() {
  const m = D.models, split = view.split;
  const members = m.scaled.map((_, row) => row).filter((i) => score(i, 0, split));
  const baselines = m.id.map((_, i) => i).filter((i) => m.state[i] === "baseline" && D.shown.has(m.id[i]) && score(i, 0, split));
  const others = view.others
    ? m.id.map((_, i) => i).filter((i) => ["scored", "raced"].includes(m.state[i]) && score(i, 0, split)) : [];
  return { members, baselines, others };
}

function values(rows, k) {
  return rows.map((i) => onScale(D.objectives[k], score(i, k, view.split)[0]));
}
function errors(rows, k) {
  return rows.map((i) => 1.96 * onScale(D.objectives[k], score(i, k, view.split)[1]));
}
function ids(rows) {
  return rows.map((i) => D.models.id[i]);
}

function pairTraces(x, y, axes = {}, small = false) {
  const { members, baselines, others } = marks();
  const traces = [];
  const common = { type: "scatter", hoverinfo: "text", ...axes };
  if (others.length) {
    traces.push({
      ...common, mode: "markers", x: values(others, x), y: values(others, y), customdata: ids(others), text: others.map(hover),
      marker: { size: small ? 3 : 5, color: css("--mark"), opacity: 0.45 }, name: "not on the front",
    });
  }
  const dim = members.map((i) => (!D.allowed || D.allowed.has(i) ? 1 : 0.18));
  const bars = (k) => ({ type: "data", array: errors(members, k), thickness: 0.7, width: 0, color: css("--mark") + "88" });
  traces.push({
    ...common, mode: "markers", x: values(members, x), y: values(members, y), customdata: ids(members), text: members.map(hover),
    ...(view.errors && !small ? { error_x: bars(x), error_y: bars(y) } : {}),
    marker: {
      size: small ? 5 : 9, color: colorValues(members), colorscale: plotScale(), opacity: dim,
      line: { width: small ? 0 : 0.7, color: css("--card") },
      ...(small ? {} : { colorbar: { title: { text: plain(colorName()), side: "right" }, thickness: 11, outlinewidth: 0, len: 0.9 } }),
    },
    name: "front",
  });
  traces.push({
    ...common, mode: small ? "markers" : "markers+text", x: values(baselines, x), y: values(baselines, y), customdata: ids(baselines),
    text: baselines.map((i) => plain(D.models.id[i])), textposition: "top center", textfont: { color: css("--soft"), size: 11.5 },
    hovertext: baselines.map(hover), marker: { size: small ? 6 : 10, symbol: "diamond-open", color: css("--ink"), line: { width: 1.6 } }, name: "baselines",
  });
  const own = chosen === null ? undefined : indexOf(chosen);
  if (own !== undefined && score(own, 0, view.split)) {
    const bar = (k) => ({ type: "data", array: errors([own], k), thickness: 1.6, width: 0, color: css("--pick") });
    traces.push({
      ...common, mode: "markers", x: values([own], x), y: values([own], y), customdata: [chosen], hovertext: [hover(own)],
      error_x: bar(x), error_y: bar(y),
      marker: { size: small ? 10 : 17, symbol: "circle-open", color: css("--pick"), line: { width: small ? 2 : 3 } }, name: "chosen",
    });
  }
  return traces;
}

function arrows(x, y) {
  // Search scores of the members, and a line from each to its score on the deciding split.
  const { members } = marks();
  const xs = [], ys = [];
  for (const i of members) {
    const before = score(i, 0, "search") && score(i, 0, D.split);
    if (!before) continue;
    const at = (k, split) => onScale(D.objectives[k], score(i, k, split)[0]);
    xs.push(at(x, "search"), at(x, D.split), null);
    ys.push(at(y, "search"), at(y, D.split), null);
  }
  return {
    type: "scatter", mode: "lines+markers", x: xs, y: ys, hoverinfo: "skip", line: { width: 0.8, color: css("--mark") },
    marker: { size: xs.map((_, k) => (k % 3 === 0 ? 4 : 0)), color: css("--mark") }, name: "search scores",
  };
}

function drawFront() {
  const place = byId("front-plot");
  const [x, y] = [view.x, view.y];
  const o = D.objectives;
  let traces, shape, config = CONFIG;
  place.classList.remove("low");
  if (view.kind === "solid") {
    [traces, shape] = solid();
    config = CONFIG_3D;
  } else if (view.kind === "matrix") {
    [traces, shape] = matrix();
  } else if (view.kind === "lines") {
    [traces, shape] = parallel();
  } else if (o.length === 1) {
    traces = strip();
    shape = layout({ xaxis: { title: { text: plain(axisName(o[0])) } }, yaxis: { visible: false, range: [-1, 2] }, hovermode: "closest" });
  } else {
    traces = pairTraces(x, y);
    if (view.both) traces.unshift(arrows(x, y));
    shape = layout({
      xaxis: { title: { text: plain(axisName(o[x])) } }, yaxis: { title: { text: plain(axisName(o[y])) } }, hovermode: "closest",
    });
  }
  shape.uirevision = `${view.kind} ${x} ${y} ${view.z} ${view.split}`;
  return Plotly.react(place, traces, shape, config);
}

function strip() {
  const traces = [];
  for (const [rows, at] of [[marks().members, 0], [marks().baselines, 1]]) {
    traces.push({
      type: "scatter", mode: at ? "markers+text" : "markers", x: values(rows, 0), y: rows.map(() => at), customdata: ids(rows),
      text: rows.map((i) => plain(D.models.id[i])), hovertext: rows.map(hover), hoverinfo: "text", textposition: "top center",
      error_x: { type: "data", array: errors(rows, 0), thickness: 1, color: css("--mark") },
      marker: { size: 10, color: at ? css("--ink") : css("--accent"), symbol: at ? "diamond-open" : "circle" },
    });
  }
  return traces;
}

function solid() {
  const axes = [view.x, view.y, view.z];
  const { members, baselines } = marks();
  const own = chosen === null ? [] : [indexOf(chosen)].filter((i) => i !== undefined && score(i, 0, view.split));
  const at = (rows) => Object.fromEntries(axes.map((k, n) => ["xyz"[n], values(rows, k)]));
  const common = { type: "scatter3d", hoverinfo: "text" };
  const traces = [
    {
      ...common, mode: "markers", ...at(members), customdata: ids(members), text: members.map(hover),
      marker: { size: 5, color: colorValues(members), colorscale: plotScale(), colorbar: { title: { text: plain(colorName()), side: "right" }, thickness: 11, outlinewidth: 0, len: 0.8, y: 0.45 } },
    },
    {
      ...common, mode: "markers+text", ...at(baselines), customdata: ids(baselines), hovertext: baselines.map(hover),
      text: baselines.map((i) => plain(D.models.id[i])), textfont: { color: css("--soft"), size: 11 },
      marker: { size: 5, symbol: "diamond-open", color: css("--ink") },
    },
    { ...common, mode: "markers", ...at(own), customdata: ids(own), hovertext: own.map(hover), marker: { size: 11, symbol: "circle-open", color: css("--pick") } },
  ];
  const scene = Object.fromEntries(axes.map((k, n) => [
    `${"xyz"[n]}axis`,
    { title: { text: plain(axisName(D.objectives[k])) }, gridcolor: css("--line"), color: css("--soft"), backgroundcolor: "rgba(0,0,0,0)" },
  ]));
  return [traces, { ...layout({ margin: { l: 0, r: 0, t: 0, b: 0 } }), scene: { ...scene, camera: { eye: { x: 1.5, y: 1.5, z: 0.9 } } } }];
}

function matrix() {
  const o = D.objectives, n = o.length - 1;
  const traces = [], shape = layout({ margin: { l: 56, r: 8, t: 8, b: 46 }, hovermode: "closest" });
  delete shape.xaxis;
  delete shape.yaxis;
  const gap = 0.03;
  for (let row = 1; row <= n; row++) {
    for (let column = 0; column < row; column++) {
      const number = traces.groups = (traces.groups || 0) + 1;
      const name = number === 1 ? "" : String(number);
      traces.push(...pairTraces(column, row, { xaxis: `x${name}`, yaxis: `y${name}` }, true));
      const top = 1 - (row - 1) / n, bottom = 1 - row / n + gap;
      shape[`xaxis${name}`] = {
        ...AXIS(), domain: [column / n, (column + 1) / n - gap], anchor: `y${name}`, tickfont: { size: 10 },
        ...(row === n ? { title: { text: plain(o[column].metric), font: { size: 11 } } } : { showticklabels: false }),
      };
      shape[`yaxis${name}`] = {
        ...AXIS(), domain: [bottom, top], anchor: `x${name}`, tickfont: { size: 10 },
        ...(column === 0 ? { title: { text: plain(o[row].metric), font: { size: 11 } } } : { showticklabels: false }),
      };
    }
  }
  return [traces, shape];
}

function parallel() {
  const o = D.objectives;
  const { members, baselines } = marks();
  const alike = o.every((each) => each.percent);
  const ends = o.map((_, k) => {
    const all = [...values(members, k), ...values(baselines, k)];
    return [Math.min(...all), Math.max(...all)];
  });
  const at = (k, v) => {
    if (alike) return v;
    const [low, high] = ends[k];
    const share = high > low ? (v - low) / (high - low) : 0.5;
    return o[k].sign < 0 ? share : 1 - share;
  };
  const line = (rows, style) => {
    const x = [], y = [], text = [], data = [];
    for (const i of rows) {
      o.forEach((_, k) => {
        x.push(k);
        y.push(at(k, values([i], k)[0]));
        text.push(hover(i));
        data.push(D.models.id[i]);
      });
      x.push(null); y.push(null); text.push(""); data.push("");
    }
    return { type: "scatter", mode: "lines+markers", x, y, hovertext: text, hoverinfo: "text", customdata: data, ...style };
  };
  const colors = colorValues(members).flatMap((c) => [...o.map(() => c), null]);
  const traces = [
    line(members, { line: { width: 1, color: css("--mark") + "70" }, marker: { size: 7, color: colors, colorscale: plotScale() } }),
    ...baselines.map((i, n) => line([i], {
      line: { width: 1.4, dash: ["dot", "dash", "dashdot", "longdash"][n % 4], color: css("--soft") }, marker: { size: 6, symbol: "diamond-open", color: css("--ink") },
    })),
  ];
  const shape = layout({
    xaxis: { tickvals: o.map((_, k) => k), ticktext: o.map((each) => plain(each.metric)), range: [-0.2, o.length - 0.55], zeroline: false },
    yaxis: alike ? { title: { text: "%" } } : { tickvals: [0, 1], ticktext: ["worst", "best"] }, hovermode: "closest",
  });
  shape.annotations = baselines.map((i) => {
    const k = o.length - 1;
    return { x: k, y: at(k, values([i], k)[0]), text: plain(D.models.id[i]), showarrow: false, xanchor: "left", xshift: 8, font: { size: 11, color: css("--soft") } };
  });
  const own = chosen === null ? undefined : indexOf(chosen);
  if (own !== undefined && score(own, 0, view.split)) traces.push(line([own], { line: { width: 3, color: css("--pick") }, marker: { size: 9, color: css("--pick") } }));
  return [traces, shape];
}

function startFront() {
  view.split = D.split;
  for (const tab of document.querySelectorAll("[data-view]")) {
    tab.addEventListener("click", () => {
      view.kind = tab.dataset.view;
      for (const each of document.querySelectorAll("[data-view]")) each.setAttribute("aria-pressed", String(each === tab));
      byId("axes").hidden = !["pair", "solid"].includes(view.kind);
      if (byId("axis-z-label")) byId("axis-z-label").hidden = view.kind !== "solid";
      Plotly.purge(byId("front-plot"));
      drawFront().then(listen);
    });
  }
  const listen = () => {
    const place = byId("front-plot");
    place.removeAllListeners("plotly_click");
    place.on("plotly_click", (event) => {
      const id = event.points[0].customdata;
      if (id) choose(id);
    });
  };
  for (const axis of ["x", "y", "z"]) {
    const select = byId(`axis-${axis}`);
    if (!select) continue;
    select.value = String(view[axis]);
    select.addEventListener("change", () => { view[axis] = Number(select.value); drawFront(); });
  }
  byId("color").addEventListener("change", (event) => { view.color = event.target.value; drawFront(); });
  byId("errors").checked = view.errors = D.models.scaled.length <= 40;
  for (const name of ["errors", "others", "both"]) {
    const box = byId(name);
    if (box) box.addEventListener("change", () => { view[name] = box.checked; drawFront(); });
  }
  const split = byId("split");
  if (split) split.addEventListener("change", () => { view.split = split.value; drawFront(); });
  D.objectives.forEach((_, k) => {
    byId(`wish-${k}`).addEventListener("input", wish);
    byId(`bound-${k}`).addEventListener("input", wish);
  });
  byId("level").addEventListener("click", () => {
    D.objectives.forEach((_, k) => { byId(`wish-${k}`).value = 50; byId(`bound-${k}`).value = ""; });
    wish();
  });
  return drawFront().then(listen);
}
