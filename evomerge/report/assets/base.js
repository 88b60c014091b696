"use strict";
// Data, words, colours and small drawings. Every text goes into the page as text, never as markup.

const byId = (id) => document.getElementById(id);
const hasText = (text) => text !== null && text !== undefined && text !== "";
let D = null;
let chosen = null;

async function unpacked(id) {
  const bytes = Uint8Array.from(atob(byId(id).textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "on") for (const [event, action] of Object.entries(value)) made.addEventListener(event, action);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null) made.setAttribute(key, value);
  }
  made.append(...children.filter(hasText));
  return made;
}

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter(hasText));
  return made;
}

function number(value, digits = 4) {
  return Number(value.toPrecision(digits)).toString();
}

// A score as people read it: percent where it is a fraction.
function shown(objective, value) {
  return objective.percent ? (100 * value).toFixed(1) : number(value);
}
function unit(objective) {
  return objective.percent ? "\u00a0%" : "";
}
// A metric as at an axis, that may be broken before a dot or at a blank but not before its unit.
function named(objective) {
  const parts = axisName(objective).split(/(?=\.)/);
  return parts.flatMap((part, k) => (k ? [el("wbr"), part] : [part]));
}
function axisName(objective) {
  return objective.metric + unit(objective) + (objective.sign > 0 ? " (less is better)" : "");
}
function onScale(objective, value) {
  return value === null ? null : objective.percent ? 100 * value : value;
}
// Plotly reads a few tags in labels and hover texts.
function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
function isDark() {
  return css("color-scheme") === "dark" ||
    (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
}

function mix(stops, share) {
  const place = Math.min(1, Math.max(0, share)) * (stops.length - 1);
  const k = Math.min(stops.length - 2, Math.floor(place));
  const part = place - k;
  return `rgb(${stops[k].map((c, i) => Math.round(c + (stops[k + 1][i] - c) * part)).join(",")})`;
}
// cividis, which people with any colour vision tell apart; and a diverging pair around the card's colour.
const SEQUENTIAL = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [195, 179, 105], [254, 232, 56]];
// On a dark page the darkest end would not be seen.
const ON_DARK = [[64, 92, 168], [96, 112, 152], [126, 130, 134], [160, 152, 122], [200, 184, 104], [254, 232, 56]];
function sequential() { return isDark() ? ON_DARK : SEQUENTIAL; }
function amount(share) { return mix(sequential(), share); }
function signed(share) {
  const middle = isDark() ? [44, 49, 58] : [244, 244, 242];
  return mix([[33, 102, 172], [103, 169, 207], middle, [239, 138, 98], [178, 24, 43]], (share + 1) / 2);
}
function plotScale() {
  return sequential().map((c, k, all) => [k / (all.length - 1), `rgb(${c.join(",")})`]);
}
function textOn(color) {
  const [r, g, b] = color.match(/\d+/g).map(Number);
  return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "dark" : "light";
}

// A heat map as SVG. rows, columns: names; values[row][column] or null; color: value to colour.
function heatMap(place, title, rows, columns, values, color, options = {}) {
  const write = options.write || ((v) => number(v, 2));
  const longest = Math.max(...rows.map((r) => r.length), 4);
  const left = Math.min(230, 10 + 6.4 * longest);
  const room = (options.width || place.clientWidth || 560) - left - 2;
  const cell = Math.max(options.least || 15, Math.min(58, room / columns.length));
  const high = options.high || Math.max(17, Math.min(30, 220 / rows.length));
  const turned = columns.some((c) => 6.6 * c.length > cell - 2);
  const top = turned ? 12 + 5 * Math.max(...columns.map((c) => c.length)) : 18;
  const width = left + cell * columns.length + (turned ? 26 : 2);
  const drawing = svg("svg", {
    class: "heat", viewBox: `0 0 ${width} ${top + high * rows.length + 2}`, width, role: "img", "aria-label": title,
  });
  const every = turned ? Math.max(1, Math.ceil(11 / cell)) : 1;
  columns.forEach((name, c) => {
    if (c % every) return;
    const x = left + cell * (c + 0.5);
    const turn = turned ? { transform: `rotate(-45 ${x} ${top - 5})`, "text-anchor": "start" } : { "text-anchor": "middle" };
    drawing.append(svg("text", { x, y: top - 5, class: "soft", ...turn }, name));
  });
  rows.forEach((name, r) => {
    const y = top + high * r;
    const cut = name.length > 34 ? name.slice(0, 33) + "…" : name;
    drawing.append(svg("text", { x: left - 6, y: y + high / 2 + 4, "text-anchor": "end" }, cut));
    columns.forEach((column, c) => {
      const value = values[r][c];
      const fill = value === null || value === undefined ? css("--faint") : color(value, r, c);
      const box = svg("rect", {
        x: left + cell * c + 0.5, y: y + 0.5, width: cell - 1, height: high - 1, rx: 2, fill,
      });
      const said = value === null || value === undefined ? "none" : options.tell ? options.tell(value, r, c) : write(value);
      box.append(svg("title", {}, `${name}, ${column}: ${said}`));
      drawing.append(box);
      if (value === null || value === undefined) return;
      const words = options.mark ? options.mark(value, r, c) : cell >= 30 ? write(value) : "";
      if (words) {
        drawing.append(svg("text", {
          x: left + cell * (c + 0.5), y: y + high / 2 + 4, "text-anchor": "middle", class: textOn(fill), "pointer-events": "none",
        }, words));
      }
    });
  });
  place.append(drawing);
}

// Bars of one line each, in parts. rows: [name, [[part, value], ...]]; colors by part.
function partBars(place, title, rows, colors, write) {
  const width = Math.max(280, Math.min(720, place.clientWidth || 560));
  const left = Math.min(0.36 * width, 12 + 7 * Math.max(...rows.map(([name]) => name.length)));
  const right = 64, high = 26;
  const most = Math.max(...rows.map(([, parts]) => parts.reduce((sum, [, v]) => sum + v, 0)), 1e-12);
  const drawing = svg("svg", { class: "bars", viewBox: `0 0 ${width} ${high * rows.length + 4}`, role: "img", "aria-label": title });
  rows.forEach(([name, parts], r) => {
    const y = high * r;
    const most_letters = Math.floor((left - 10) / 6.6);
    const cut = name.length > most_letters ? name.slice(0, most_letters - 1) + "…" : name;
    drawing.append(svg("text", { x: left - 8, y: y + 17, "text-anchor": "end" }, cut));
    let x = left, sum = 0;
    for (const [part, value] of parts) {
      const long = (width - left - right) * value / most;
      const box = svg("rect", { x, y: y + 4, width: Math.max(0, long - 0.5), height: high - 8, rx: 2, fill: colors[part] });
      box.append(svg("title", {}, `${name}, ${part}: ${write(value)}`));
      drawing.append(box);
      x += long;
      sum += value;
    }
    drawing.append(svg("text", { x: x + 6, y: y + 17 }, write(sum)));
  });
  place.append(drawing);
}

function keys(place, colors) {
  const list = el("p", { class: "keys" });
  for (const [name, color] of Object.entries(colors)) {
    const mark = el("i");
    mark.style.background = color;
    list.append(el("span", {}, mark, name));
  }
  place.append(list);
}

const PARTS = () => isDark()
  ? ["#6cb2f7", "#ff9d5c", "#57cf9a", "#d9a6ff", "#f2d15c", "#8f98a6"]
  : ["#0b63b0", "#d9601a", "#12724a", "#7a3fb0", "#a87900", "#8a919c"];

function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return seconds < 10 ? `${seconds.toFixed(1)} s` : `${whole} s`;
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  return h ? `${h}:${String(m).padStart(2, "0")}:${String(s).padStart(2, "0")}` : `${m}:${String(s).padStart(2, "0")}`;
}

function quoted(word) {
  return /^[\w@%+=:,.\/-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\"'\"'")}'`;
}
function command(pick) {
  return `evomerge export ${D.directory} ${quoted(pick)} ${quoted(D.out)}`;
}

async function copy(button) {
  const text = byId(button.dataset.copies).textContent;
  let done = false;
  try {
    await navigator.clipboard.writeText(text);
    done = true;
  } catch {
    // Without the clipboard (an old browser, a page not from a disk) the text is marked, to be copied by hand.
    const range = document.createRange();
    range.selectNodeContents(byId(button.dataset.copies));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    done = document.execCommand("copy");
  }
  const before = button.textContent;
  button.textContent = done ? "Copied" : "Marked";
  byId("said").textContent = done ? "The command is copied." : "The command is marked.";
  setTimeout(() => { button.textContent = before; }, 1500);
}

function layout(extra = {}) {
  const axis = { gridcolor: css("--grid"), zerolinecolor: css("--grid"), linecolor: css("--line"), automargin: true };
  const { xaxis = {}, yaxis = {}, ...rest } = extra;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--ink"), size: 12.5, family: getComputedStyle(document.body).fontFamily },
    margin: { l: 56, r: 16, t: 12, b: 46 }, hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--ink") } },
    showlegend: false, dragmode: "pan", modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--mark"), activecolor: css("--accent") }, xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
  };
}
const AXIS = () => ({ gridcolor: css("--grid"), zerolinecolor: css("--grid"), linecolor: css("--line") });
const CONFIG = {
  displaylogo: false, responsive: true, scrollZoom: false,
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
};
const CONFIG_3D = { displaylogo: false, responsive: true, modeBarButtons: [["toImage", "orbitRotation", "pan3d", "resetCameraDefault3d"]] };
