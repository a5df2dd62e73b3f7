// What changed from one text to the next, line by line: the longest common subsequence, with the equal ends set aside first.

const MOST = 4000;

export function diff(before, after) {
  const [a, b] = [before.split("\n"), after.split("\n")];
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head += 1;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail += 1;
  const [left, right] = [a.slice(head, a.length - tail), b.slice(head, b.length - tail)];
  const context = (lines) => lines.map((line) => [" ", line]);
  const middle = left.length * right.length > MOST * MOST
    ? [...left.map((line) => ["-", line]), ...right.map((line) => ["+", line])]
    : walk(left, right);
  return [...context(a.slice(Math.max(0, head - 3), head)), ...middle, ...context(a.slice(a.length - tail, a.length - tail + 3))];
}

function walk(left, right) {
  const width = right.length + 1;
  const lengths = new Uint32Array((left.length + 1) * width);
  for (let i = left.length - 1; i >= 0; i -= 1) {
    for (let j = right.length - 1; j >= 0; j -= 1) {
      lengths[i * width + j] = left[i] === right[j]
        ? lengths[(i + 1) * width + j + 1] + 1
        : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
    }
  }
  const lines = [];
  let [i, j] = [0, 0];
  while (i < left.length || j < right.length) {
    if (i < left.length && j < right.length && left[i] === right[j]) lines.push([" ", left[i++], j++]);
    else if (j >= right.length || (i < left.length && lengths[(i + 1) * width + j] >= lengths[i * width + j + 1])) lines.push(["-", left[i++]]);
    else lines.push(["+", right[j++]]);
  }
  return lines;
}
