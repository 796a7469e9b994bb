// The maps of an IFS as matrices [[a, b, e], [c, d, f]]: singular values, sigma, probabilities, and what edits do.

/** {u, s1, s2, v}: A = R(u) diag(s1, s2) R(v), s1 >= |s2|; s2 is negative where A mirrors. Angles in radians. */
export function decompose([[a, b], [c, d]]) {
  const [p, q] = [(a + d) / 2, (c - b) / 2]; // the part that turns
  const [r, s] = [(a - d) / 2, (c + b) / 2]; // the part that mirrors
  const [turning, mirroring] = [Math.hypot(p, q), Math.hypot(r, s)];
  const [sum, difference] = [Math.atan2(q, p), Math.atan2(s, r)];
  return { u: (sum + difference) / 2, v: (sum - difference) / 2, s1: turning + mirroring, s2: turning - mirroring };
}

/** The inverse of `decompose`, with the translation of `map`. */
export function compose({ u, v, s1, s2 }, [[, , e], [, , f]]) {
  const [cosU, sinU, cosV, sinV] = [Math.cos(u), Math.sin(u), Math.cos(v), Math.sin(v)];
  return [
    [cosU * s1 * cosV - sinU * s2 * sinV, -cosU * s1 * sinV - sinU * s2 * cosV, e],
    [sinU * s1 * cosV + cosU * s2 * sinV, -sinU * s1 * sinV + cosU * s2 * cosV, f],
  ];
}

/** [s1, s2], s1 >= s2 >= 0. */
export function singularValues(map) {
  const { s1, s2 } = decompose(map);
  return [s1, Math.abs(s2)];
}

/** A map with other singular values in the places of its own: its turns stay, and whether it mirrors. */
export function withSingularValues(map, s1, s2) {
  const parts = decompose(map);
  return compose({ ...parts, s1, s2: parts.s2 < 0 ? -s2 : s2 }, map);
}

/** sigma of a map, s1 + 2 s2; that of a system is the sum over its maps. */
export function sigmaOf(map) {
  const [s1, s2] = singularValues(map);
  return s1 + 2 * s2;
}

/** sigma of a system. */
export function sigma(maps) {
  return maps.reduce((sum, map) => sum + sigmaOf(map), 0);
}

/** |det A|. */
export function determinant([[a, b], [c, d]]) {
  return Math.abs(a * d - b * c);
}

/** The probabilities that the determinants give; null where all are 0. */
export function probabilities(maps) {
  const total = maps.reduce((sum, map) => sum + determinant(map), 0);
  return total > 0 ? maps.map((map) => determinant(map) / total) : null;
}

/** Whether an IFS's probabilities are those of its determinants. */
export function followsDeterminants(ifs) {
  const own = probabilities(ifs.maps);
  return !ifs.p || (own !== null && own.every((p, map) => Math.abs(p - ifs.p[map]) < 1e-9));
}

/** An IFS with other maps: p follows the determinants where it did before, and stays where it did not. */
export function withMaps(ifs, maps) {
  return followsDeterminants(ifs) || maps.length !== ifs.maps.length ? { maps } : { maps, p: ifs.p };
}

/** An IFS of another sigma: all its matrices times one number. For bases of no seed. */
export function withSigma(ifs, target) {
  const factor = target / sigma(ifs.maps);
  const scaled = ifs.maps.map(([[a, b, e], [c, d, f]]) => [
    [a * factor, b * factor, e],
    [c * factor, d * factor, f],
  ]);
  return ifs.p ? { maps: scaled, p: ifs.p } : { maps: scaled };
}

/** A point through a map. */
export function apply([[a, b, e], [c, d, f]], [x, y]) {
  return [a * x + b * y + e, c * x + d * y + f];
}
