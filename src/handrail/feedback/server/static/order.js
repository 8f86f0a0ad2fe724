// The state of a ranking, without a page: places from the best to the worst, each a group of responses that are tied,
// and those that have no place yet.  Every function returns a new state.

/** groups: [[2], [0, 1]] is "2 first, 0 and 1 tied"; rest: those without a place, in the order shown. */
export function begin(n, draft = null) {
  const groups = (draft?.groups ?? []).map((group) => group.filter((one) => one < n)).filter((group) => group.length);
  return settled(groups, n);
}

function settled(groups, n) {
  const kept = groups.filter((group) => group.length);
  const placed = new Set(kept.flat());
  return { n, groups: kept, rest: Array.from({ length: n }, (_, one) => one).filter((one) => !placed.has(one)) };
}

const at = (state, one) => state.groups.findIndex((group) => group.includes(one));
const without = (state, one) => state.groups.map((group) => group.filter((other) => other !== one));

/** Its place, 1 the best; 0 where it has none.  Those behind a tie of two stand one place on, none is left out. */
export const place = (state, one) => at(state, one) + 1;
export const tied = (state, one) => state.groups[at(state, one)]?.filter((other) => other !== one) ?? [];

/** Behind all others. */
export const append = (state, one) => settled([...without(state, one), [one]], state.n);

export const remove = (state, one) => settled(without(state, one), state.n);

/** One place up (-1) or down (1): out of its tie first, then past its neighbour. */
export function move(state, one, by) {
  const from = at(state, one);
  if (from < 0) return append(state, one);
  const groups = state.groups.map((group) => [...group]);
  if (groups[from].length > 1) {
    groups[from] = groups[from].filter((other) => other !== one);
    groups.splice(by < 0 ? from : from + 1, 0, [one]);
  } else {
    const to = from + by;
    if (to < 0 || to >= groups.length) return state;
    [groups[from], groups[to]] = [groups[to], groups[from]];
  }
  return settled(groups, state.n);
}

/** Tied with the place before; or, where it is in a tie, out of it and behind. */
export function toggleTie(state, one) {
  const from = at(state, one);
  if (from < 0) return state;
  const groups = state.groups.map((group) => [...group]);
  if (groups[from].length > 1) {
    groups[from] = groups[from].filter((other) => other !== one);
    groups.splice(from + 1, 0, [one]);
  } else if (from > 0) {
    groups[from - 1].push(one);
    groups[from] = [];
  }
  return settled(groups, state.n);
}

/** To the row `row` of the list of all placed ones (as it is without this one); between two that are tied, it joins them. */
export function drop(state, one, row) {
  const groups = without(state, one).filter((group) => group.length);
  let before = 0;
  for (let index = 0; index < groups.length; index++) {
    if (row <= before) return settled([...groups.slice(0, index), [one], ...groups.slice(index)], state.n);
    if (row < before + groups[index].length) {
      groups[index].splice(row - before, 0, one);
      return settled(groups, state.n);
    }
    before += groups[index].length;
  }
  return settled([...groups, [one]], state.n);
}

export const places = (state) => Array.from({ length: state.n }, (_, one) => place(state, one));

/** The groups of an answer's places. */
export function groupsOf(answered) {
  const groups = [];
  answered.forEach((number, one) => (groups[number - 1] ??= []).push(one));
  return groups;
}
