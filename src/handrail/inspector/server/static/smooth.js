// What is done to curves before they are drawn: smoothing, and intervals over runs that differ in their seed alone.

/** An exponential moving average that begins without a bias; `weight` 0 leaves the curve as it is. Gaps stay gaps. */
export function smooth(values, weight) {
  if (!weight) return values;
  let sum = 0, mass = 0;
  return values.map((value) => {
    if (value === null || !Number.isFinite(value)) return null;
    sum = weight * sum + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    return sum / mass;
  });
}

const T = [0, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131]; // 97.5 % of Student's t

/** The mean over several curves at each step where two or more have a number, and its 95 % interval by Student's t. */
export function interval(curves) {
  const at = new Map();
  for (const { xs, ys } of curves) xs.forEach((x, i) => ys[i] !== null && Number.isFinite(ys[i]) && (at.get(x) ?? at.set(x, []).get(x)).push(ys[i]));
  const xs = [...at.keys()].sort((a, b) => a - b).filter((x) => at.get(x).length > 1);
  const ys = [], low = [], high = [];
  for (const x of xs) {
    const values = at.get(x), n = values.length;
    const mean = values.reduce((a, b) => a + b, 0) / n;
    const std = Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / (n - 1));
    const half = ((T[n - 1] ?? 1.96) * std) / Math.sqrt(n);
    ys.push(mean);
    low.push(mean - half);
    high.push(mean + half);
  }
  return { xs, ys, low, high };
}

/** Points of a curve between two steps, so few that each pixel has about one: the least and the greatest of every bucket. */
export function thinned(xs, ys, most) {
  if (xs.length <= most) return [xs, ys];
  const size = Math.ceil((2 * xs.length) / most), kept = [];
  for (let start = 0; start < xs.length; start += size) {
    let least = -1, greatest = -1;
    for (let i = start; i < Math.min(start + size, xs.length); i++) {
      if (ys[i] === null || !Number.isFinite(ys[i])) continue;
      if (least < 0 || ys[i] < ys[least]) least = i;
      if (greatest < 0 || ys[i] > ys[greatest]) greatest = i;
    }
    if (least < 0) kept.push(start);
    else kept.push(...(least === greatest ? [least] : [Math.min(least, greatest), Math.max(least, greatest)]));
  }
  return [kept.map((i) => xs[i]), kept.map((i) => ys[i])];
}
