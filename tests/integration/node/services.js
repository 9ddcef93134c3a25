// SPDX-License-Identifier: Apache-2.0
// What the servers of sofa-rpc-node offer, whatever the protocol.
'use strict';

const { setTimeout: pause } = require('timers/promises');

exports.INTERFACE = 'org.example.Calls';
exports.VERSION = '1.0';

exports.protocol = name => require(name === 'dubbo' ? 'dubbo-remoting' : 'sofa-bolt-node');

// `name` is what `who` answers.
exports.delegate = name => {
  const notes = [];
  return {
    async echo(value) {
      return value;
    },
    async sum(a, b) {
      return a + b;
    },
    async who() {
      return name;
    },
    async fail(text) {
      throw new Error(text);
    },
    async slow(milliseconds, value) {
      await pause(milliseconds);
      return value;
    },
    async note(text) {
      notes.push(text);
      return text;
    },
    async noted(text) {
      return notes.includes(text);
    },
  };
};
