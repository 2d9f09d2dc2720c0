// The numbers of the page, computed as `Fit.predict` and `use.ask` compute them in Python: the law
// at its estimate and at every bootstrap draw, widened, scattered and moved by the misfit.

const FIRST_DECADE = 0, GRID = 121, HALVINGS = 44, INSIDE = 1e-3;

function quantile(sorted, share, lower) {
  const place = share * (sorted.length - 1), below = Math.floor(place), rest = place - below;
  if (lower || rest === 0) return sorted[below];
  return sorted[below] + (sorted[below + 1] - sorted[below]) * rest;
}

// Draws moved away from the estimate by a factor, in log where all are positive.
function widen(cloud, centre, factor) {
  let positive = centre > 0;
  for (const value of cloud) if (!(value > 0) && Number.isFinite(value)) positive = false;
  return cloud.map((value) => {
    const moved = positive ? centre * (value / centre) ** factor : centre + factor * (value - centre);
    return Number.isFinite(value) && Number.isFinite(moved) ? moved : value;
  });
}

function row(fit, columns) {
  return fit.predictors.map((name) => columns[name]);
}

// How far a row lies beyond the fitted runs, in log; 0 inside, null where nothing tells it.
function distance(fit, columns) {
  return fit.misfit ? Math.max(fit.misfit.place(columns) - fit.misfit.end, 0) : null;
}

function mean(fit, columns) {
  return fit.predict(row(fit, columns), fit.best);
}

// {value, low, high} of a new run with these columns; NaN ends without draws.
function predict(fit, columns) {
  const x = row(fit, columns), value = fit.predict(x, fit.best);
  if (!fit.draws.length) return {value, low: NaN, high: NaN};
  const spread = fit.misfit ? fit.misfit.slope * distance(fit, columns) : 0;
  const cloud = widen(Float64Array.from(fit.draws, (p) => fit.predict(x, p)), value, fit.factor);
  for (let i = 0; i < cloud.length; i++) {
    cloud[i] = fit.linear ? cloud[i] + fit.noise[i] : cloud[i] * Math.exp(fit.noise[i]);
    if (fit.misfit) cloud[i] *= Math.exp(spread * fit.normals[i]);
  }
  const sorted = cloud.filter(Number.isFinite).sort(), tail = (1 - fit.level) / 2;
  return {value, low: quantile(sorted, tail), high: quantile(sorted, 1 - tail)};
}

// The size of the least target along a budget, where its slope turns from falling to rising: on a
// grid in log, then by bisection. Infinity where it is at no size between.
function bestSize(fit, p, flops, x) {
  const point = x.slice(), end = Math.log10(flops / 6), {size, tokens} = fit.allocation;
  const put = (decades) => {
    point[size] = 10 ** decades;
    point[tokens] = flops / 6 / point[size];
    return point;
  };
  const value = (decades) => {
    const found = fit.predict(put(decades), p);
    return Number.isFinite(found) ? found : Infinity;
  };
  const grid = (i) => FIRST_DECADE + (end - FIRST_DECADE) * (i / (GRID - 1)), turns = [];
  for (let i = 0, before = NaN; i < GRID; i++) {
    const here = fit.slope(put(grid(i)), p);
    if (before < 0 && here >= 0) turns.push(i);
    before = here;
  }
  if (!turns.length) return Infinity;
  const lower = turns.length > 1 ? turns.map((i) => Math.min(value(grid(i - 1)), value(grid(i)))) : [0];
  const place = turns[lower.indexOf(Math.min(...lower))];
  let low = grid(place - 1), high = grid(place);
  for (let i = 0; i < HALVINGS; i++) {
    const centre = (low + high) / 2;
    if (fit.slope(put(centre), p) < 0) low = centre;
    else high = centre;
  }
  const inside = high > FIRST_DECADE + INSIDE && high < end - INSIDE;
  return inside && value(high) <= Math.min(value(FIRST_DECADE), value(end)) ? 10 ** high : Infinity;
}

// [params, tokens, tokens per param, target] of the least target at a budget, by one draw.
function optimum(fit, p, flops, x) {
  const point = x.slice(), {size, tokens} = fit.allocation;
  if (fit.flops >= 0) point[fit.flops] = flops;
  if (fit.closed) [point[size], point[tokens]] = fit.closed(p, flops, x);
  else {
    point[size] = bestSize(fit, p, flops, point);
    point[tokens] = flops / 6 / point[size];
  }
  return [point[size], point[tokens], point[tokens] / point[size], fit.predict(point, p)];
}

// {params, tokens, ratio, target: {value, low, high}}; a draw without an optimum counts as infinite.
function allocate(fit, flops, columns) {
  const x = row(fit, columns), one = optimum(fit, fit.best, flops, x);
  const all = fit.draws.map((p) => optimum(fit, p, flops, x)), tail = (1 - fit.level) / 2;
  const along = fit.misfit && fit.misfit.direction === "compute";
  const beyond = along ? Math.max(Math.log(flops) - fit.misfit.end, 0) * fit.misfit.slope : 0;
  const found = {};
  ["params", "tokens", "ratio", "target"].forEach((name, place) => {
    const value = one[place];
    let cloud = Float64Array.from(all, (answer) => answer[place]);
    if (name === "target") cloud = cloud.map((v, i) => v * Math.exp(beyond * fit.normals[i]));
    const lower = cloud.some((v) => !Number.isFinite(v));
    const sorted = (Number.isFinite(value) ? widen(cloud, value, fit.factor) : cloud).sort();
    const ends = [tail, 1 - tail].map((share) => quantile(sorted, share, lower));
    found[name] = {value, low: cloud.length ? ends[0] : NaN, high: cloud.length ? ends[1] : NaN};
  });
  return found;
}
