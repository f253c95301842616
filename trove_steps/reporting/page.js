// Shows the data of the report. Everything from the data is written as text, never as HTML.
const embed = window.vegaEmbed;
const data = await unpack(document.getElementById("data").textContent);
const FAMILIES = [["ndcg_cut", "nDCG"], ["recall", "recall"], ["map_cut", "MAP"], ["P", "precision"], ["mrr_cut", "MRR"], ["success", "success"]];
const SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left", "stroke", "wedge"];
const SYMBOLS = ["●", "■", "▲", "◆", "✚", "▼", "▶", "◀", "━", "◣"];
const DASHES = [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 4], [10, 3], [1, 3], [6, 2, 1, 2], [3, 1], [12, 4]];
const COLOURS = SHAPES.map((_, n) => `var(--c${n})`);
const KINDS = ["relevant", "judged, not relevant", "not judged"];

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text.trim()), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}

const number = (value, digits = 4) => value === null || value === undefined ? "–" : value.toFixed(digits);
const count = value => value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en");
const range = n => [...Array(n).keys()];
const modelsOf = dataset => data.models.filter(model => dataset.cells[model]);

function choice(label, options, value, change, names = options) {
  const select = el("select", { onchange: () => change(select.value) },
    ...options.map((option, n) => el("option", { value: option }, String(names[n]))));
  select.value = value;
  return el("label", {}, `${label} `, select);
}

// --- plots -------------------------------------------------------------------------------------------

const CONFIG = {
  background: "transparent", font: getComputedStyle(document.body).fontFamily,
  axis: { labelColor: "var(--ink)", titleColor: "var(--ink)", gridColor: "var(--line)", domainColor: "var(--faint)", tickColor: "var(--faint)", titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 12 },
  legend: { labelColor: "var(--ink)", titleColor: "var(--ink)", labelFontSize: 11 },
  title: { color: "var(--ink)", fontSize: 13 }, view: { stroke: "var(--line)" }, text: { color: "var(--ink)" },
};

function plot(spec, kind = "") {
  const place = el("div", { class: `chart ${kind}` });
  const full = { width: "container", height: 210, autosize: { type: "fit", contains: "padding", resize: true }, ...spec };
  const draw = () => embed(place, full, { actions: false, renderer: "svg", config: CONFIG });
  // A plot takes the width of its place, which is known once it is on the page.
  const observer = new IntersectionObserver(entries => entries.some(entry => entry.isIntersecting) && place.draw(), { rootMargin: "3000px" });
  place.draw = () => { observer.disconnect(); place.draw = () => {}; draw(); };
  observer.observe(place);
  return place;
}

// How a model looks. After ten models the colours come again, with other shapes and dashes.
const look = model => {
  const n = data.models.indexOf(model), turn = Math.floor(n / 10);
  const other = (n + turn) % 10;
  return { colour: COLOURS[n % 10], shape: SHAPES[other], symbol: SYMBOLS[other], dash: DASHES[other] };
};
const scaled = (models, property) => ({ type: "nominal", scale: { domain: models, range: models.map(model => look(model)[property]) }, legend: null });
const byModel = models => scaled(models, "colour");
const shapeOf = models => scaled(models, "shape");
const dashOf = models => scaled(models, "dash");

function modelKeys(models) {
  return el("div", { class: "keys" }, ...models.map(model =>
    el("span", {}, el("b", { style: `--c:${look(model).colour}` }, `${look(model).symbol} `), model)));
}

function lines(values, models, x, y, title, extra = {}) {
  const encoding = {
    x, y, color: { field: "model", ...byModel(models) },
    tooltip: [{ field: "model" }, { field: x.field, title: x.title }, { field: y.field, title: y.title, format: ".4~f" }],
  };
  return plot({
    title, data: { values }, encoding,
    layer: [
      { mark: { type: "line", strokeWidth: 1.8, ...extra }, encoding: { strokeDash: { field: "model", ...dashOf(models) } } },
      ...(extra.interpolate ? [{ mark: { type: "rule", opacity: 0, strokeWidth: 5 } }]
        : [{ mark: { type: "point", filled: true, size: 55 }, encoding: { shape: { field: "model", ...shapeOf(models) } } }]),
    ],
  });
}

// --- leaderboard -------------------------------------------------------------------------------------

function leaderboard() {
  const holder = el("div", { class: "wide" });
  let metric = data.main, order = { column: null, ascending: false };
  const averaged = model => {
    const values = data.datasets.map(d => d.cells[model]?.metrics[metric]);
    return values.every(v => typeof v === "number") ? values.reduce((a, b) => a + b, 0) / values.length : null;
  };
  const first = { title: "model", value: model => model };
  const average = { title: "average", value: averaged };
  const figures = [
    ...(data.datasets.length > 1 ? [average] : []),
    ...data.datasets.map(dataset => ({ title: dataset.name, dataset, value: model => dataset.cells[model]?.metrics[metric] ?? null })),
  ];

  function draw() {
    const by = order.column ?? figures[0];
    const sorted = [...data.models].sort((a, b) => {
      const [x, y] = [by.value(a), by.value(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return (by === first ? x.localeCompare(y, "en", { numeric: true }) : x - y) * (order.ascending ? 1 : -1);
    });
    for (const column of figures) column.best = Math.max(...data.models.map(model => column.value(model) ?? -Infinity));
    holder.replaceChildren(el("table", { class: "leaderboard" },
      el("thead", {}, el("tr", {}, ...[first, ...figures].map(column => el("th", { scope: "col", "aria-sort": column === by ? (order.ascending ? "ascending" : "descending") : null },
        el("button", { onclick: () => { order = { column, ascending: column === by ? !order.ascending : column === first }; draw(); } }, column.title))))),
      el("tbody", {}, ...sorted.map(model => el("tr", {}, el("td", {}, model), ...figures.map(column => cell(model, column)))))));
  }
  function cell(model, column) {
    const shown = column.value(model);
    const isFirst = shown !== null && data.models.length > 1 && shown.toFixed(4) === column.best.toFixed(4);
    const isBest = isFirst && shown.toFixed(4) !== "0.0000";
    const found = column.dataset?.cells[model];
    const p = found?.p[metric];
    const equal = !isFirst && p !== undefined && p >= 0.05;
    return el("td", { class: isBest ? "best" : null, title: p === undefined ? null : `p = ${p.toPrecision(2)} against the best` },
      `${number(shown)}${equal ? " ≈" : ""}`,
      found?.low[metric] === undefined ? null : el("span", { class: "interval" }, `${number(found.low[metric], 3)} – ${number(found.high[metric], 3)}`));
  }
  draw();
  return el("section", { id: "leaderboard" }, el("h2", {}, "Leaderboard"),
    choice("metric", data.metrics, metric, chosen => { metric = chosen; draw(); }), holder,
    el("p", { class: "note" }, `Bold: the best of its data set. ≈: not distinguishable from the best (paired randomisation test over the queries, two-sided, corrected by Holm's method for all pairs of models, p ≥ 0.05). Below each value: 95% bootstrap interval of its mean over the queries. A click on a heading sorts.`));
}

// --- a data set --------------------------------------------------------------------------------------

function datasetSection(dataset, open) {
  const body = el("div");
  const section = el("details", { class: "dataset", id: `dataset-${dataset.name}`, ontoggle: () => section.open && section.fill() }, el("summary", {}, `${dataset.name} `, el("span", { class: "faint" }, `${count(dataset.documents)} documents, ${count(dataset.queries)} judged queries`)), body);
  section.fill = () => { if (!body.childNodes.length) fill(dataset, body); };
  section.open = open;
  return section;
}

function fill(dataset, body) {
  const models = modelsOf(dataset);
  body.append(modelKeys(models), el("h3", {}, "Metrics by cut-off"), curves(dataset, models));
  const measured = models.filter(model => dataset.points.values[model]);
  if (measured.length > 1) body.append(el("h3", {}, "Query by query"), scatter(dataset, measured));
  body.append(el("h3", {}, "Worst queries"), worst(dataset, models));
  body.append(el("h3", {}, "Scores of the retrieved documents"), distributions(dataset, models));
  body.append(el("h3", {}, "Warnings"), warnings(dataset, models));
  const mined = models.filter(model => dataset.cells[model].mining);
  if (mined.length) body.append(el("h3", {}, "Mined negatives"), mining(dataset, mined));
}

function curves(dataset, models) {
  const charts = FAMILIES.map(([prefix, title]) => {
    const values = models.flatMap(model => Object.entries(dataset.cells[model].metrics)
      .map(([name, value]) => [name.match(/^(.*)_(\d+)$/), value]).filter(([found]) => found && found[1] === prefix)
      .map(([found, value]) => ({ model, k: +found[2], value })));
    const ks = [...new Set(values.map(v => v.k))].sort((a, b) => a - b);
    if (ks.length < 2) return null;
    return lines(values, models, { field: "k", type: "quantitative", title: "k", scale: { type: "log", domain: [ks[0], ks.at(-1)] }, axis: { values: ks, grid: false } },
      { field: "value", type: "quantitative", title: null }, `${title}@k`);
  });
  return el("div", { class: "charts" }, ...charts);
}

function scatter(dataset, models) {
  const holder = el("div"), points = dataset.points;
  let [x, y] = models;
  const draw = () => {
    const values = points.ids.map((id, n) => ({ id, query: points.texts[n], x: points.values[x][n], y: points.values[y][n] }));
    const [right, left] = [points.wins[x][y], points.wins[y][x]];
    holder.replaceChildren(
      el("p", { class: "note" }, `${x} is better on ${count(right)} queries, ${y} on ${count(left)}, equal on ${count(points.of - right - left)}.` +
        (points.of > points.ids.length ? ` Shown: ${count(points.ids.length)} of ${count(points.of)} queries, evenly chosen.` : "")),
      plot({
        height: 380, layer: [
          { data: { values: [{ x: 0, y: 0 }, { x: 1, y: 1 }] }, mark: { type: "line", color: "var(--faint)", strokeDash: [4, 4], strokeWidth: 1 },
            encoding: { x: { field: "x", type: "quantitative" }, y: { field: "y", type: "quantitative" } } },
          { data: { values }, mark: { type: "point", filled: true, size: 60, opacity: 0.5, color: "var(--c0)" }, encoding: {
            x: { field: "x", type: "quantitative", title: `${data.main}, ${x}`, scale: { domain: [0, 1] } },
            y: { field: "y", type: "quantitative", title: `${data.main}, ${y}`, scale: { domain: [0, 1] } },
            tooltip: [{ field: "query" }, { field: "id" }, { field: "x", title: x }, { field: "y", title: y }] } },
        ],
      }, "square"));
  };
  draw();
  return el("div", {}, choice("across", models, x, v => { x = v; draw(); }), choice("up", models, y, v => { y = v; draw(); }), holder);
}

function worst(dataset, models) {
  const holder = el("div");
  const draw = model => holder.replaceChildren(...dataset.cells[model].worst.map((query, n) => {
    const item = el("details", {}, el("summary", {}, `${number(query.value, 3)}  ${query.text || query.id} `, el("span", { class: "faint" }, `query ${query.id}`)),
      el("div", { class: "beside" },
        el("div", {}, el("h4", {}, "Retrieved"), el("ol", {}, ...query.top.map(one => documentItem(dataset, one)))),
        el("div", {}, el("h4", {}, `Judged (${query.judged.length} of ${query.of}, ${query.relevant} of them relevant)`),
          el("ol", {}, ...query.judged.map(one => documentItem(dataset, one, query.depth))))));
    item.open = n === 0;
    return item;
  }));
  draw(models[0]);
  return el("div", {}, choice("model", models, models[0], draw), holder);
}

function documentItem(dataset, one, depth = null) {
  const [id, text] = dataset.texts[one.doc];
  const relevant = one.label !== null && one.label >= dataset.threshold;
  const judged = one.label === null ? "not judged" : relevant ? `relevant (${one.label})` : `judged ${one.label}`;
  const place = one.rank === null ? `not in the first ${depth}` : `rank ${one.rank}, score ${number(one.score)}`;
  return el("li", { class: one.label === null ? null : relevant ? "relevant" : "irrelevant" },
    el("span", { class: "tag" }, `${place} · document ${id} · `, el("b", {}, judged)), el("br"), text || "(text not at hand)");
}

// The steps of a histogram's outline, which goes down to zero behind the last one.
function steps(counts, low, high) {
  const edge = n => low + (high - low) * n / counts.length;
  return [...counts, 0].map((number, n) => ({ from: edge(n), to: edge(n + 1), number }));
}

function distributions(dataset, models) {
  return el("div", { class: "charts" }, ...models.map(model => {
    const { ends, counts } = dataset.cells[model].scores;
    if (!ends) return null;
    const totals = KINDS.map(kind => counts[kind].reduce((a, b) => a + b, 0));
    const names = KINDS.map((kind, n) => `${kind} (${count(totals[n])})`);
    const values = KINDS.flatMap((kind, n) => steps(counts[kind], ...ends).map(({ from, to, number: documents }) =>
      ({ kind: names[n], from, to, share: totals[n] ? documents / totals[n] : 0, documents })));
    const kind = { field: "kind", type: "nominal" }, legend = { orient: "bottom", title: null, columns: 1, labelLimit: 300, symbolStrokeWidth: 2, symbolSize: 400, symbolType: "stroke" };
    return plot({
      title: model, data: { values }, height: 250,
      encoding: {
        x: { field: "from", type: "quantitative", title: "score", scale: { zero: false, nice: false } },
        y: { field: "share", type: "quantitative", title: "share of its kind", axis: { format: ".0%" } },
        color: { ...kind, scale: { domain: names, range: ["var(--c2)", "var(--c1)", "var(--c6)"] }, legend },
      },
      layer: [
        { mark: { type: "line", interpolate: "step-after", strokeWidth: 1.8 }, encoding: { strokeDash: { ...kind, scale: { domain: names, range: [[1, 0], [6, 3], [2, 2]] }, legend } } },
        { transform: [{ filter: "datum.documents > 0" }], mark: { type: "rule", opacity: 0, strokeWidth: 5 }, encoding: {
          tooltip: [{ field: "kind" }, { field: "from" }, { field: "to" }, { field: "documents" }, { field: "share", format: ".1%" }] } },
      ],
    });
  }));
}

function table(heading, rows) {
  return el("div", { class: "wide" }, el("table", {}, el("thead", {}, el("tr", {}, ...heading.map(h => el("th", { scope: "col" }, h)))),
    el("tbody", {}, ...rows.map(row => el("tr", {}, ...row.map(c => el("td", {}, c)))))));
}

function warnings(dataset, models) {
  const share = (part, whole) => {
    if (!whole) return "–";
    const shown = `${count(part)} (${(100 * part / whole).toFixed(1)}%)`;
    return part / whole > 0.05 ? el("span", { class: "warn" }, shown) : shown;
  };
  const of = model => dataset.cells[model].warnings;
  const without = { num_without_judgments: "queries without judgments", num_without_results: "judged queries without results",
    num_judgments_not_in_corpus: "judgments of documents that the corpus lacks" };
  const lines = new Map();  // what is said → of which models
  // The check of the files says of which queries and documents; without one, the evaluation counted.
  const counted = Object.entries(without).filter(([name]) => dataset.check === null || name === "num_without_results");
  for (const model of models) for (const [name, what] of counted) {
    const line = `${count(of(model).counts[name])} ${what}`;
    if (of(model).counts[name]) lines.set(line, [...lines.get(line) ?? [], model]);
  }
  const counts = [...lines].map(([line, concerned]) => concerned.length === models.length ? line : `${line} (${concerned.join(", ")})`);
  const ties = models.flatMap(model => data.metrics.filter(metric => of(model).ties[metric])
    .map(metric => `${model}: ${metric} between ${of(model).ties[metric].map(v => number(v)).join(" and ")}`));
  const missing = [...new Set(models.flatMap(model => of(model).missing))];
  const found = (dataset.check ?? []).map(({ message, examples }) => el("li", {}, message + (examples.length ? ` (such as ${examples.join(", ")})` : "")));
  return el("div", {},
    dataset.check === null ? el("p", { class: "note" }, "The files were not checked: there are no texts beside the vectors.") : null,
    found.length ? el("ul", { class: "found" }, ...found) : null,
    missing.length ? el("ul", { class: "found" }, ...missing.map(line => el("li", {}, line))) : null,
    counts.length ? el("p", {}, `${counts.join("; ")}.`) : null,
    ties.length ? el("p", {}, `Depends on the order of documents with equal scores: ${ties.join("; ")}.`) : null,
    table(["model", "documents cut off", "queries cut off", "documents that repeat another's text", "queries with ties in the top 10"], models.map(model => {
      const { cut, repeated, documents, tied_queries, queries } = of(model);
      return [model, ...["corpus", "queries"].map(side => cut[side] ? share(...cut[side]) : "–"), share(repeated, documents), share(tied_queries, queries)];
    })), el("p", { class: "note" }, "Cut off: longer than the model's max_len, of the texts whose length is known. Orange: more than 5%."));
}

function mining(dataset, models) {
  const stages = models.flatMap(model => Object.entries(dataset.cells[model].mining.funnel).map(([stage, documents]) => ({ model, stage: stage === "candidates" ? "looked at" : stage, documents })));
  const names = [...new Set(stages.filter(s => s.documents).map(s => s.stage))];
  const funnel = plot({
    title: "Funnel", data: { values: stages.filter(s => names.includes(s.stage)) }, height: 70 + names.length * Math.max(8 * models.length, 20), mark: "bar",
    encoding: {
      y: { field: "stage", type: "nominal", sort: names, title: null }, yOffset: { field: "model", sort: models },
      x: { field: "documents", type: "quantitative", title: "documents", axis: { format: "~s", tickCount: 5 } },
      color: { field: "model", ...byModel(models) }, tooltip: [{ field: "model" }, { field: "stage" }, { field: "documents", format: "," }],
    },
  });
  const ranks = models.flatMap(model => {
    const found = dataset.cells[model].mining.ranks;
    const parts = found?.counts.length;
    return found ? steps(found.counts, 1, 1 + parts * found.width).map(({ from: rank, number: negatives }) => ({ model, rank, negatives })) : [];
  });
  const margins = models.flatMap(model => {
    const found = dataset.cells[model].mining.margins;
    return found ? steps(found.counts, ...found.ends).map(({ from: margin, number: negatives }) => ({ model, margin, negatives })) : [];
  });
  const holder = el("div");
  const draw = model => holder.replaceChildren(el("div", { class: "wide" }, el("table", {},
    el("thead", {}, el("tr", {}, ...["query", "negative", "a relevant document"].map(h => el("th", { class: "text" }, h)))),
    el("tbody", {}, ...dataset.cells[model].mining.samples.map(sample => el("tr", {}, el("td", { class: "text" }, sample.text || sample.query, el("br"), el("span", { class: "tag" }, `query ${sample.query}`)),
      described(dataset, sample.negative), described(dataset, sample.positive)))))));
  draw(models[0]);
  const judge = dataset.cells[models[0]].mining.judge;
  const above = models.map(model => [model, dataset.cells[model].mining.margins?.above]).filter(([, share]) => share > 0)
    .map(([model, share]) => `${model} ${(100 * share).toFixed(1)}%`);
  return el("div", {},
    el("div", { class: "charts" }, funnel,
      ranks.length ? lines(ranks, models, { field: "rank", type: "quantitative", title: "rank", axis: { tickMinStep: 1, format: "d" } }, { field: "negatives", type: "quantitative", title: "negatives" }, "Ranks of the negatives", { interpolate: "step-after" }) : null,
      margins.length ? lines(margins, models, { field: "margin", type: "quantitative", title: `weakest positive's score by ${judge} − negative's` }, { field: "negatives", type: "quantitative", title: "negatives" }, "Margins", { interpolate: "step-after" }) : null),
    above.length ? el("p", { class: "note" }, `Negatives that score above the weakest positive, by ${judge}: ${above.join(", ")}. They may be relevant without being judged.`) : null,
    el("h4", {}, "Negatives to read, drawn at random"), choice("model", models, models[0], draw), holder);
}

function described(dataset, one) {
  if (!one) return el("td", { class: "text" }, "–");
  const [id, text] = dataset.texts[one.doc];
  return el("td", { class: "text" }, text || "(text not at hand)", el("br"),
    el("span", { class: "tag" }, `document ${id} · ${one.rank ? `rank ${one.rank}` : "not ranked"} · score ${number(one.score)}${typeof one.teacher_score === "number" ? `, by the cross-encoder ${number(one.teacher_score)}` : ""}`));
}

// --- cost and provenance -----------------------------------------------------------------------------

function cost() {
  const cells = data.datasets.flatMap(dataset => modelsOf(dataset).map(model => ({ dataset: dataset.name, model, ...dataset.cells[model] })));
  const rows = cells.map(({ dataset, model, cost: { encode: { corpus, queries }, seconds, dim, bytes } }) => [
    dataset, model, count(corpus?.rate), corpus ? `${count(corpus.reused)} + ${count(corpus.encoded)}` : "–", number(corpus?.seconds, 1),
    number(queries?.seconds, 1), number(seconds.search, 1), number(seconds.score, 1), number(seconds.mine, 1), count(dim), count(bytes)]);
  const points = data.models.map(model => {
    const own = cells.filter(cell => cell.model === model && typeof cell.metrics[data.main] === "number");
    return own.length ? { model, bytes: own[0].cost.bytes, value: own.reduce((a, c) => a + c.metrics[data.main], 0) / own.length, sets: own.length } : null;
  }).filter(Boolean);
  return el("section", { id: "cost" }, el("h2", {}, "Cost"),
    table(["data set", "model", "tokens/s", "documents reused + encoded", "corpus, s", "queries, s", "search, s", "score, s", "mine, s", "dimensions", "bytes per vector"], rows),
    el("p", { class: "note" }, "The figures of an encoding are those of the last job that encoded anything, or of the jobs that shared the work; a search or encoding that several cells share is listed for each."),
    points.length > 1 ? el("div", {}, el("h3", {}, `${data.main} by size of a vector`), modelKeys(points.map(p => p.model)), plot({
      data: { values: points }, height: 260, mark: { type: "point", filled: true, size: 110 },
      encoding: {
        x: { field: "bytes", type: "quantitative", title: "bytes per vector", scale: { zero: true } },
        y: { field: "value", type: "quantitative", title: `mean ${data.main}`, scale: { zero: false, padding: 20 } },
        color: { field: "model", ...byModel(data.models) }, shape: { field: "model", ...shapeOf(data.models) },
        tooltip: [{ field: "model" }, { field: "bytes" }, { field: "value", title: data.main, format: ".4f" }, { field: "sets", title: "data sets" }],
      },
    }, "square")) : null);
}

const named = packages => Object.entries(packages).map(pair => pair.join(" ")).join(", ");

function provenance() {
  return el("section", { id: "provenance" }, el("h2", {}, "Provenance"),
    el("p", { class: "note" }, "A key is a hash of everything that determines an artefact, so equal keys mean equal bytes. ",
      `This page was written with ${named(data.packages)}.`),
    ...data.datasets.flatMap(dataset => modelsOf(dataset).map(model => {
      const { provenance: { keys, recipes }, cost: { encode } } = dataset.cells[model];
      const made = new Map();  // packages → what they encoded
      for (const side of ["corpus", "queries"]) {
        const packages = named(encode[side]?.versions ?? {});
        if (packages) made.set(packages, [...made.get(packages) ?? [], side]);
      }
      return el("details", {}, el("summary", {}, `${dataset.name} / ${model} `, el("span", { class: "faint" }, `search ${keys.search}`)),
        table(["key", ""], Object.entries(keys).map(([name, key]) => [name, el("code", {}, key)])),
        ...[...made].map(([packages, sides]) => el("p", {}, `${sides.join(" and ")} encoded with ${packages}.`)),
        el("pre", {}, JSON.stringify(recipes, null, 1)));
    })));
}

const total = data.datasets.reduce((sum, d) => sum + modelsOf(d).length, 0);
document.getElementById("lead").textContent = `${data.models.length} ${data.models.length === 1 ? "model" : "models"}, ` +
  `${data.datasets.length} ${data.datasets.length === 1 ? "data set" : "data sets"}, ${total} ${total === 1 ? "evaluation" : "evaluations"}`;
document.getElementById("main").replaceChildren(leaderboard(),
  el("section", { id: "datasets" }, el("h2", {}, "Data sets"), ...data.datasets.map((dataset, n) => datasetSection(dataset, n === 0))),
  cost(), provenance());

// Paper shows everything but recipes: what is closed is opened for it, and every plot is drawn.
let closed = [];
addEventListener("beforeprint", () => {
  closed = [];
  for (let found; (found = [...document.querySelectorAll("details:not([open])")]).length; closed.push(...found)) {
    for (const details of found) { details.open = true; details.fill?.(); }
  }
  for (const place of document.querySelectorAll(".chart")) place.draw();
});
addEventListener("afterprint", () => { for (const details of closed) details.open = false; });
document.body.dataset.ready = "yes";
