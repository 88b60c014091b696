// One model: scores, coefficients by layer, items won and lost, where it came from, its recipe.

function choose(id) {
  if (indexOf(id) === undefined) return;
  chosen = id;
  drawFront();
  drawMember();
  for (const row of document.querySelectorAll("tr[data-id]")) row.classList.toggle("chosen", row.dataset.id === id);
}

// Coefficients of a model: coefficient -> input -> value for each place; null where they are not here.
function tables(id) {
  if (D.baselineTables[id]) return D.baselineTables[id];
  const own = D.genes && D.genes.values[id];
  if (!own) return null;
  const found = {};
  own.forEach((value, gene) => {
    const name = D.genes.coefficient[gene], input = D.genes.input[gene];
    const column = ((found[name] ||= {})[input] ||= D.genes.places.map(() => null));
    for (const [place, part] of D.genes.parts[gene]) column[place] = (column[place] || 0) + value * part;
  });
  return found;
}

function drawMember() {
  const index = indexOf(chosen), m = D.models;
  const what = { member: "on the front", baseline: "baseline", scored: "not on the front", raced: "given up in a race", failed: "failed", waiting: "not scored yet" };
  byId("member-name").textContent = m.id[index];
  byId("member-what").textContent = [what[m.state[index]], m.label[index], m.message[m.id[index]]].filter(hasText).join(" · ");
  byId("member-command").textContent = command(m.id[index]);
  drawScores(index);
  drawCoefficients();
  drawItems(index);
  drawOrigin(index);
  drawRecipe(index);
}

function drawScores(index) {
  const place = byId("member-scores");
  const splits = Object.keys(D.models.scores);
  const experts = D.items.expert || {};
  const head = el("tr", {}, el("th", { scope: "col" }, "score"), ...splits.map((s) => el("th", { scope: "col" }, `${s} items`)), el("th", { scope: "col" }, `best expert (${D.split})`));
  const rows = D.objectives.map((o, k) => {
    const cells = splits.map((s) => {
      const found = score(index, k, s);
      return found ? el("td", {}, shown(o, found[0]), el("span", { class: "small" }, `± ${shown(o, found[1])}`)) : el("td");
    });
    const expert = experts[o.metric];
    const best = expert ? score(indexOf(expert), k, D.split) : null;
    return el("tr", {}, el("td", {}, ...named(o)), ...cells, best ? el("td", {}, shown(o, best[0]), el("span", { class: "small" }, expert)) : el("td"));
  });
  place.replaceChildren(el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)));
}

function drawCoefficients() {
  const place = byId("member-heat"), select = byId("coefficient");
  place.replaceChildren();
  const found = tables(chosen);
  if (!found || !Object.keys(found).length) {
    select.parentElement.hidden = true;
    const state = D.models.state[indexOf(chosen)];
    const why = state === "baseline" ? "This model goes in as it is; it has no coefficients."
      : `The page holds coefficients of members only; evomerge show ${D.directory} ${chosen} has these.`;
    place.append(el("p", { class: "small" }, why));
    return;
  }
  const names = Object.keys(found);
  if (!names.includes(select.value)) select.replaceChildren(...names.map((n) => el("option", { value: n }, n)));
  select.parentElement.hidden = names.length < 2;
  const name = select.value || names[0];
  const modules = Object.values(D.modules);
  const flat = byId("by-module").checked ? false : modules.some((each) => each.length > 1);
  byId("by-module").parentElement.hidden = !modules.some((each) => each.length > 1);
  const places = D.genes ? D.genes.places : D.places;
  const of = new Map(places.map((p, k) => [p, k]));
  const layers = Object.keys(D.modules);
  const rows = [], cells = [];
  const kinds = [...new Set(modules.flat())];
  for (const [input, column] of Object.entries(found[name])) {
    const label = input === "*" ? "all experts" : input;
    const at = (layer, module) => column[of.get(module ? `${layer}.${module}` : layer)];
    if (flat) {
      rows.push(label);
      cells.push(layers.map((layer) => {
        const own = D.modules[layer].map((module) => at(layer, module)).filter((v) => v !== null && v !== undefined);
        return own.length ? own.reduce((a, b) => a + b, 0) / own.length : null;
      }));
    } else {
      for (const kind of kinds) {
        const line = layers.map((layer) => (D.modules[layer].includes(kind) ? at(layer, kind) : null) ?? null);
        if (line.every((v) => v === null)) continue;
        rows.push(kind ? `${label} · ${kind.replace("self_attn.", "").replace("mlp.mlp.", "mlp.").replace("attn.", "")}` : `${label} · outside`);
        cells.push(line);
      }
    }
  }
  const all = cells.flat().filter((v) => v !== null);
  const low = Math.min(0, ...all), high = Math.max(1e-9, ...all);
  const color = low < 0 ? (v) => signed(v / Math.max(high, -low)) : (v) => amount(v / high);
  heatMap(place, `${name} of ${chosen} by expert and layer`, rows, layers.map(shortLayer), cells, color, { high: flat ? 30 : 20 });
  const means = flat ? "Means over the modules of a layer. " : "";
  place.append(el("p", { class: "small" }, `${means}From ${number(low, 3)} (blue) to ${number(high, 3)} (${low < 0 ? "red" : "yellow"}).`));
}
function shortLayer(layer) {
  return layer.replace("layers.", "").replace("final_norm", "norm");
}

function drawItems(index) {
  const place = byId("member-items");
  place.replaceChildren();
  const counts = D.items.counts[D.models.id[index]];
  if (!counts || counts.every((c) => c === null)) {
    place.append(el("p", { class: "small" }, "No results item by item are recorded for this model on these items."));
    return;
  }
  const [won, lost, same] = [PARTS()[2], PARTS()[1], css("--line")];
  const rows = D.objectives.flatMap((o, k) => (counts[k] ? [[o.metric, [["won", counts[k][0]], ["lost", counts[k][1]], ["the same", counts[k][2]]]]] : []));
  partBars(place, "items won and lost", rows, { won, lost, "the same": same }, (v) => String(v));
  keys(place, { won, lost, "the same": same });
  const words = D.objectives.flatMap((o, k) => (counts[k] ? [`${o.metric}: ${counts[k][0]} won, ${counts[k][1]} lost against ${D.items.expert[o.metric]}`] : []));
  place.append(el("p", { class: "small" }, words.join(" · ") + "."));
}

function drawOrigin(index) {
  const place = byId("member-origin"), m = D.models, id = m.id[index];
  place.replaceChildren();
  const lines = [];
  if (m.state[index] === "baseline") {
    lines.push(`A point of comparison, scored before the search${m.seconds[index] ? ` (after ${duration(m.seconds[index])})` : ""}.`);
  } else {
    const batch = m.batch[index];
    const asked = D.askedAt[batch];
    lines.push(`Asked in batch ${batch + 1} of ${D.askedAt.length}${asked ? `, ${duration(asked)} into the campaign` : ""}${m.seconds[index] ? `; judged at ${duration(m.seconds[index])}` : ""}.`);
    if (batch === 0) lines.push("It is of the first batch: where the search starts, before it knows any score.");
  }
  place.append(...lines.map((line) => el("p", {}, line)));
  const link = (other) => el("button", { class: "link", type: "button", on: { click: () => choose(other) } }, other);
  const origin = D.origins.of[id];
  if (origin) {
    const [phrase, ...parents] = origin;
    const [before, ...after] = D.origins.words[phrase].replaceAll(" %", "\u00a0%").split("{parents}");
    const named = after.length ? parents.flatMap((other, k) => [k === 0 ? "" : k === parents.length - 1 ? " and " : ", ", link(other)]) : [];
    place.append(el("p", {}, before, ...named, ...after, "."));
    const children = childrenOf(id);
    const some = children.slice(0, MOST_CHILDREN).flatMap((other, k) => [k ? ", " : "", link(other)]);
    if (children.length) place.append(el("p", {}, `${children.length === 1 ? "One candidate descends" : `${children.length} candidates descend`} from it: `, ...some, children.length > MOST_CHILDREN ? ", and more." : "."));
  }
  const taken = D.inherited[id];
  if (taken) {
    const [count, parents] = taken;
    const named = parents.flatMap(([other, shared], k) => [k ? ", and " : "", `${shared}${k ? " more" : ` of ${count}`} stand in `, link(other)]);
    const left = count - parents.reduce((sum, [, shared]) => sum + shared, 0);
    place.append(el("p", {}, "Of its coefficients ", ...named, left ? `; ${left} are new.` : "."));
  }
  const near = D.near[id];
  if (near && near.length) {
    const links = near.flatMap(([other, gap], k) => [k ? ", " : "", link(other), ` (${number(100 * gap, 2)} % of the range)`]);
    place.append(el("p", {}, "Nearest earlier models, by their coefficients: ", ...links, "."));
    if (!origin) place.append(el("p", { class: "small" }, "This ledger names no parents: these are read off the coefficients."));
  }
}

const MOST_CHILDREN = 12;
function childrenOf(id) {
  return Object.entries(D.origins.of).filter(([, [, ...parents]]) => parents.includes(id)).map(([child]) => child);
}

function drawRecipe(index) {
  const place = byId("member-recipe"), id = D.models.id[index];
  const found = D.recipes[id];
  place.replaceChildren();
  if (!found || !found.text) {
    const why = found ? found.differences : D.recipes[""] ? D.recipes[""].differences : [`The page holds the recipes of some members; the command above writes this one as mergekit_config.yml beside the model.`];
    place.append(...why.map((line) => el("p", { class: "small" }, line)));
    return;
  }
  place.append(...found.differences.map((line) => el("p", { class: "small" }, line)), el("pre", { tabindex: "0" }, found.text));
}
