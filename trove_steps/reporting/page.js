// Shows the data of the report. Everything from the data is written as text, never as HTML.
const embed = window.vegaEmbed;
const data = await unpack(document.getElementById("data").textContent);
const FAMILIES = [["ndcg_cut", "nDCG"], ["recall", "recall"], ["map_cut", "MAP"], ["P", "precision"], ["mrr_cut", "MRR"], ["success", "success"]];
const SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left", "stroke", "wedge"];
const SYMBOLS = ["●", "■", "▲", "◆", "✚", "▼", "▶", "◀", "━", "◣"];
const DASHES = [[1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 4], [10, 3], [1, 3], [6, 2, 1, 2], [3, 1], [12, 4]];
const COLOURS = SHAPES.map((_, n) => `var(--c${n})`);
const kinds = ["relevant", "judged, not relevant", "not judged"];

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
  axis: { labelColor: "var(--ink)", titleColor: "var(--ink)", gridColor: "var(--line)", domainColor: "var(--faint)", tickColor: "var(--faint)", titleFontWeight: "normal" },
  legend: { labelColor: "var(--ink)", titleColor: "var(--ink)" },
  title: { color: "var(--ink)", fontSize: 13 }, view: { stroke: "var(--line)" }, text: { color: "var(--ink)" },
};

function plot(spec, kind = "") {
  const place = el("div", { class: `chart ${kind}` });
  const full = { width: "container", height: 210, autosize: { type: "fit", contains: "padding", resize: true }, ...spec };
  const draw = () => embed(place, full, { actions: false, renderer: "svg", config: CONFIG });
  // A plot takes the width of its place, which is known once it is on the page.
  new IntersectionObserver((entries, observer) => {
    if (entries.some(entry => entry.isIntersecting)) { observer.disconnect(); draw(); }
  }, { rootMargin: "3000px" }).observe(place);
  place.drawNow = draw;
  return place;
}

const byModel = models => ({ type: "nominal", scale: { domain: models, range: models.map(m => COLOURS[data.models.indexOf(m) % 10]) }, legend: null });
const shapeOf = models => ({ type: "nominal", scale: { domain: models, range: models.map(m => SHAPES[data.models.indexOf(m) % 10]) }, legend: null });
const dashOf = models => ({ type: "nominal", scale: { domain: models, range: models.map(m => DASHES[data.models.indexOf(m) % 10]) }, legend: null });

function modelKeys(models) {
  return el("div", { class: "keys" }, ...models.map(model => {
    const n = data.models.indexOf(model) % 10;
    return el("span", {}, el("b", { style: `--c:${COLOURS[n]}` }, `${SYMBOLS[n]} `), model);
  }));
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
  const value = (model, column) => column === "model" ? model : column === "average" ? averaged(model)
    : data.datasets.find(d => d.name === column).cells[model]?.metrics[metric] ?? null;
  const several = data.datasets.length > 1;
  const columns = ["model", ...(several ? ["average"] : []), ...data.datasets.map(d => d.name)];

  function draw() {
    const by = order.column ?? (several ? "average" : columns[1]);
    const sorted = [...data.models].sort((a, b) => {
      const [x, y] = [value(a, by), value(b, by)];
      if (x === null || y === null) return (x === null) - (y === null);
      return (by === "model" ? x.localeCompare(y) : x - y) * (order.ascending ? 1 : -1);
    });
    const best = Object.fromEntries(columns.slice(1).map(c => [c, Math.max(...data.models.map(m => value(m, c) ?? -Infinity))]));
    holder.replaceChildren(el("table", { class: "leaderboard" },
      el("thead", {}, el("tr", {}, ...columns.map(column => el("th", { scope: "col", "aria-sort": column === by ? (order.ascending ? "ascending" : "descending") : null },
        el("button", { onclick: () => { order = { column, ascending: column === by ? !order.ascending : column === "model" }; draw(); } }, column))))),
      el("tbody", {}, ...sorted.map(model => el("tr", {}, ...columns.map(column => cell(model, column, best)))))));
  }
  function cell(model, column, best) {
    if (column === "model") return el("td", {}, model);
    const shown = value(model, column);
    const isBest = shown !== null && data.models.length > 1 && shown.toFixed(4) === best[column].toFixed(4);
    const found = data.datasets.find(d => d.name === column)?.cells[model];
    const p = found?.p[metric];
    const equal = !isBest && p !== undefined && p >= 0.05;
    return el("td", { class: isBest ? "best" : null, title: p === undefined ? null : `p = ${p.toPrecision(2)} against the best` },
      `${number(shown)}${equal ? " ≈" : ""}`,
      found?.low[metric] === undefined ? null : el("span", { class: "interval" }, `${number(found.low[metric], 3)} – ${number(found.high[metric], 3)}`));
  }
  draw();
  return el("section", { id: "leaderboard" }, el("h2", {}, "Leaderboard"),
    choice("metric", data.metrics, metric, chosen => { metric = chosen; draw(); }), holder,
    el("p", { class: "note" }, `Bold: the best of its data set. ≈: not distinguishable from the best (paired randomisation test over the queries, two-sided, Holm-corrected, p ≥ 0.05). Below each value: 95% bootstrap interval of its mean over the queries. A click on a heading sorts.`));
}

// --- a data set --------------------------------------------------------------------------------------

function datasetSection(dataset, open) {
  const judged = dataset.counts.num_judged ?? dataset.queries;
  const body = el("div");
  const section = el("details", { class: "dataset", id: `dataset-${dataset.name}`, ontoggle: () => {
    if (section.open && !body.childNodes.length) fill(dataset, body);
  } }, el("summary", {}, `${dataset.name} `, el("span", { class: "faint" }, `${count(dataset.documents)} documents, ${count(judged)} judged queries`)), body);
  section.open = open;
  return section;
}

function fill(dataset, body) {
  const models = modelsOf(dataset);
  body.append(modelKeys(models), el("h3", {}, "Metrics by cut-off"), curves(dataset, models));
  if (models.length > 1) body.append(el("h3", {}, "Query by query"), scatter(dataset, models));
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
    const [right, left] = [values.filter(v => v.x > v.y).length, values.filter(v => v.y > v.x).length];
    holder.replaceChildren(
      el("p", { class: "note" }, `${x} is better on ${count(right)} queries, ${y} on ${count(left)}, equal on ${count(values.length - right - left)}.` +
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

function distributions(dataset, models) {
  return el("div", { class: "charts" }, ...models.map(model => {
    const { edges, counts } = dataset.cells[model].scores;
    if (!edges) return null;
    const values = kinds.flatMap(kind => {
      const total = counts[kind].reduce((a, b) => a + b, 0);
      return counts[kind].map((n, i) => ({ kind: `${kind} (${count(total)})`, from: edges[i], to: edges[i + 1], share: total ? n / total : 0, documents: n }));
    });
    const names = [...new Set(values.map(v => v.kind))];
    return plot({
        title: model, data: { values }, height: 230,
      mark: { type: "bar", opacity: 0.5, binSpacing: 0 },
      encoding: {
        x: { field: "from", type: "quantitative", bin: "binned", title: "score" }, x2: { field: "to" },
        y: { field: "share", type: "quantitative", stack: null, title: "share of its kind", axis: { format: ".0%" } },
        color: { field: "kind", type: "nominal", scale: { domain: names, range: ["var(--c2)", "var(--c1)", "var(--c6)"] }, legend: { orient: "bottom", title: null, columns: 1 } },
        tooltip: [{ field: "kind" }, { field: "from" }, { field: "to" }, { field: "documents" }, { field: "share", format: ".1%" }],
      },
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
  const counts = Object.entries({
    "queries without judgments": dataset.counts.num_without_judgments,
    "judged queries without results": dataset.counts.num_without_results,
    "judgments of documents that the corpus lacks": dataset.counts.num_judgments_not_in_corpus,
  }).filter(([, n]) => n).map(([what, n]) => `${count(n)} ${what}`);
  const ties = models.flatMap(model => data.metrics.filter(metric => dataset.cells[model].ties[metric])
    .map(metric => `${model}: ${metric} between ${dataset.cells[model].ties[metric].map(v => number(v)).join(" and ")}`));
  return el("div", {}, counts.length ? el("p", {}, `${counts.join("; ")}.`) : null,
    ties.length ? el("p", {}, `Depends on the order of documents with equal scores: ${ties.join("; ")}.`) : null,
    table(["model", "documents cut off", "queries cut off", "documents that repeat another's text", "queries with ties in the top 10"], models.map(model => {
      const { warnings: w, cost: { encode } } = dataset.cells[model];
      const cut = side => encode[side] ? share(encode[side].truncated, encode[side].encoded) : "–";
      return [model, cut("corpus"), cut("queries"), share(w.repeated, w.documents), share(w.tied_queries, w.queries)];
    })), el("p", { class: "note" }, "Cut off: longer than the model's max_len, of the texts that were encoded. Orange: more than 5%."));
}

function mining(dataset, models) {
  const stages = models.flatMap(model => Object.entries(dataset.cells[model].mining.funnel).map(([stage, documents]) => ({ model, stage, documents })));
  const names = [...new Set(stages.filter(s => s.documents).map(s => s.stage))];
  const funnel = plot({
    title: "Funnel", data: { values: stages.filter(s => names.includes(s.stage)) }, height: names.length * Math.max(8 * models.length, 20), mark: "bar",
    encoding: {
      y: { field: "stage", type: "nominal", sort: names, title: null }, yOffset: { field: "model", sort: models },
      x: { field: "documents", type: "quantitative", title: "documents", axis: { format: "~s" } },
      color: { field: "model", ...byModel(models) }, tooltip: [{ field: "model" }, { field: "stage" }, { field: "documents", format: "," }],
    },
  });
  const ranks = models.flatMap(model => {
    const found = dataset.cells[model].mining.ranks;
    return found ? found.counts.map((n, i) => ({ model, rank: 1 + i * found.width, negatives: n })) : [];
  });
  const margins = models.flatMap(model => {
    const found = dataset.cells[model].mining.margins;
    return found ? found.counts.map((n, i) => ({ model, margin: found.edges[i], negatives: n })) : [];
  });
  const holder = el("div");
  const draw = model => holder.replaceChildren(el("div", { class: "wide" }, el("table", {},
    el("thead", {}, el("tr", {}, ...["query", "negative", "a relevant document"].map(h => el("th", { class: "text" }, h)))),
    el("tbody", {}, ...dataset.cells[model].mining.samples.map(sample => el("tr", {}, el("td", { class: "text" }, sample.text || sample.query, el("br"), el("span", { class: "tag" }, `query ${sample.query}`)),
      described(dataset, sample.negative), described(dataset, sample.positive)))))));
  draw(models[0]);
  const above = models.map(model => [model, dataset.cells[model].mining.margins?.above]).filter(([, share]) => share > 0)
    .map(([model, share]) => `${model} ${(100 * share).toFixed(1)}%`);
  return el("div", {},
    el("div", { class: "charts" }, funnel,
      ranks.length ? lines(ranks, models, { field: "rank", type: "quantitative", title: "rank" }, { field: "negatives", type: "quantitative", title: "negatives" }, "Ranks of the negatives", { interpolate: "step-after" }) : null,
      margins.length ? lines(margins, models, { field: "margin", type: "quantitative", title: "best relevant document's score − negative's" }, { field: "negatives", type: "quantitative", title: "negatives" }, "Margins", { interpolate: "step-after" }) : null),
    above.length ? el("p", { class: "note" }, `Negatives that score above the best relevant document that was retrieved: ${above.join(", ")}. They may be relevant without being judged.`) : null,
    el("h4", {}, "Negatives to read, drawn at random"), choice("model", models, models[0], draw), holder);
}

function described(dataset, one) {
  if (!one) return el("td", { class: "text" }, "–");
  const [id, text] = dataset.texts[one.doc];
  return el("td", { class: "text" }, text || "(text not at hand)", el("br"),
    el("span", { class: "tag" }, `document ${id} · ${one.rank ? `rank ${one.rank}` : "not ranked"} · score ${number(one.score)}`));
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
    el("p", { class: "note" }, "The figures of an encoding are those of the last job that encoded anything; a search or encoding that several cells share is listed for each."),
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

function provenance() {
  return el("section", { id: "provenance" }, el("h2", {}, "Provenance"),
    el("p", { class: "note" }, "A key is a hash of everything that determines an artefact, so equal keys mean equal bytes. ",
      `trove-steps ${data.version}; ${Object.entries(data.packages).map(pair => pair.join(" ")).join(", ")}.`),
    ...data.datasets.flatMap(dataset => modelsOf(dataset).map(model => {
      const { keys, recipes } = dataset.cells[model].provenance;
      return el("details", {}, el("summary", {}, `${dataset.name} / ${model} `, el("span", { class: "faint" }, `search ${keys.search}`)),
        table(["key", ""], Object.entries(keys).map(([name, key]) => [name, el("code", {}, key)])),
        el("pre", {}, JSON.stringify(recipes, null, 1)));
    })));
}

const total = data.datasets.reduce((sum, d) => sum + modelsOf(d).length, 0);
document.getElementById("lead").textContent = `${data.models.length} ${data.models.length === 1 ? "model" : "models"}, ` +
  `${data.datasets.length} ${data.datasets.length === 1 ? "data set" : "data sets"}, ${total} ${total === 1 ? "evaluation" : "evaluations"}`;
document.getElementById("main").replaceChildren(leaderboard(),
  el("section", { id: "datasets" }, el("h2", {}, "Data sets"), ...data.datasets.map((dataset, n) => datasetSection(dataset, n === 0))),
  cost(), provenance());
document.body.dataset.ready = "yes";
