// SPDX-License-Identifier: Apache-2.0
// Calls that only ask who answers them, many at a time.
'use strict';

const AT_A_TIME = 20;

async function some(call, count) {
  return await Promise.all(Array.from({ length: count }, call));
}

// words: how many, or `until` and a name. The answers in their order; of the latter, the first of each kind.
exports.who = async (call, words) => {
  if (words[0] !== 'until') {
    return await some(call, Number(words[0]));
  }
  const seen = new Set();
  while (!seen.has(words[1])) {
    for (const answer of await some(call, AT_A_TIME)) {
      seen.add(answer);
    }
    console.error('under way');
  }
  return [ ...seen ];
};
