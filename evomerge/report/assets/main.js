// Start: unpack, draw, listen.

function drawAll() {
  if (D.models) {
    drawFront();
    if (chosen !== null) drawMember();
    if (D.search) drawSearch();
  }
  drawExperts();
}

function setTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  byId("theme").textContent = isDark() ? "Light" : "Dark";
}

function sortBy(button) {
  const body = button.closest("table").tBodies[0];
  const column = Number(button.dataset.column);
  const down = button.dataset.down !== "true";
  for (const other of button.closest("tr").querySelectorAll("button")) {
    delete other.dataset.down;
    other.closest("th").removeAttribute("aria-sort");
  }
  button.dataset.down = String(down);
  button.closest("th").setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    const order = x !== "" && y !== "" && !isNaN(x) && !isNaN(y) ? Number(x) - Number(y) : x < y ? -1 : x > y ? 1 : 0;
    return down ? -order : order;
  });
  body.append(...rows);
}

function follow() {
  // Served while a campaign runs: look whether there is more, and take this page's state along.
  let known = document.body.dataset.version;
  setInterval(async () => {
    try {
      const now = await (await fetch("version", { cache: "no-store" })).text();
      if (now === known) return;
      known = now;
      const state = { chosen, theme: document.documentElement.dataset.theme, y: scrollY, wishes: D.models ? readWishes() : null, kind: view.kind };
      sessionStorage.setItem("evomerge", JSON.stringify(state));
      location.reload();
    } catch { /* the server has ended; what is here stays */ }
  }, 2000);
}

function restored() {
  const text = document.body.dataset.version ? sessionStorage.getItem("evomerge") : null;
  return text ? JSON.parse(text) : {};
}

async function start() {
  setTheme(document.documentElement.dataset.theme);
  byId("theme").addEventListener("click", () => { setTheme(isDark() ? "light" : "dark"); drawAll(); });
  for (const button of document.querySelectorAll("[data-copies]")) button.addEventListener("click", () => copy(button));
  const script = document.createElement("script");
  script.textContent = await unpacked("plotly");
  document.head.append(script);
  D = JSON.parse(await unpacked("data"));
  const before = restored();
  if (before.theme) setTheme(before.theme);
  if (D.models) {
    D.index = new Map(D.models.id.map((id, k) => [id, k]));
    D.shown = new Set(D.shown);
    for (const button of document.querySelectorAll("[data-choose]")) button.addEventListener("click", () => {
      choose(button.dataset.choose);
      if (button.dataset.goes) byId("member").scrollIntoView();
    });
    for (const button of document.querySelectorAll("th button[data-column]")) button.addEventListener("click", () => sortBy(button));
    byId("coefficient").addEventListener("change", drawCoefficients);
    byId("by-module").addEventListener("change", drawCoefficients);
    await startFront();
    if (before.wishes) D.objectives.forEach((_, k) => {
      byId(`wish-${k}`).value = before.wishes.weights[k];
      byId(`bound-${k}`).value = before.wishes.bounds[k] ?? "";
    });
    if (D.models.scaled.length) wish();
    const first = before.chosen && D.index.has(before.chosen) ? before.chosen : chosen ?? D.models.id[0];
    if (first) choose(first);
    if (D.search) {
      for (const tab of document.querySelectorAll("[data-over]")) tab.addEventListener("click", () => {
        byTime = tab.dataset.over === "seconds";
        for (const each of document.querySelectorAll("[data-over]")) each.setAttribute("aria-pressed", String(each === tab));
        drawSearch();
      });
      drawSearch();
    }
  }
  drawExperts();
  if (before.y) scrollTo({ top: before.y, behavior: "instant" });
  // Paper is light.
  let shownAs;
  addEventListener("beforeprint", () => { shownAs = document.documentElement.dataset.theme; setTheme("light"); drawAll(); });
  addEventListener("afterprint", () => { setTheme(shownAs); drawAll(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { setTheme(document.documentElement.dataset.theme); drawAll(); });
  let wait = 0;
  let wide = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === wide) return;
    wide = innerWidth;
    clearTimeout(wait);
    wait = setTimeout(drawAll, 200);
  });
  if (document.body.dataset.version) follow();
  document.body.dataset.ready = "true";
}

start().catch((error) => {
  byId("trouble").hidden = false;
  byId("trouble").append(` (${error.name}: ${error.message})`);
  console.error(error);
});
