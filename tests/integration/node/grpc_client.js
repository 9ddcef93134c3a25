// SPDX-License-Identifier: Apache-2.0
// A client of grpc-js for calls.proto: grpc_client.js HOST:PORT [CALLS|until NAME]
// Prints what the calls gave as JSON; with CALLS or a NAME, only who answered: each of so many, or all until it was NAME.
'use strict';

const { once } = require('events');
const grpc = require('@grpc/grpc-js');
const { Calls } = require('./grpc_service');
const { who } = require('./who');

const [ target, ...words ] = process.argv.slice(2);
const client = new Calls(target, grpc.credentials.createInsecure());

function settled(resolve) {
  return (error, response) => resolve(error ? { code: error.code, details: error.details } : response);
}

function unary(method, request, options = {}) {
  return new Promise(resolve => client[method](request, options, settled(resolve)));
}

function statusOf(call) {
  return new Promise(resolve => call.on('status', resolve));
}

// Value, headers and trailers of a call with metadata.
async function echo() {
  const metadata = new grpc.Metadata();
  metadata.add('x-echo', 'one');
  metadata.add('x-echo', 'two');
  let call;
  const answer = new Promise(resolve => { call = client.echo({ text: 'grüße 🙂' }, metadata, settled(resolve)); });
  const [[ headers ], status ] = await Promise.all([ once(call, 'metadata'), statusOf(call) ]);
  return {
    ...await answer,
    headers: headers.get('x-echo'), trailers: status.metadata.get('x-echo-trailer'), code: status.code,
  };
}

// A status without any message: headers and trailers are one.
async function fail() {
  const error = await new Promise(resolve => client.fail({ code: 9, text: 'not: now, 100 %' }, resolve));
  const { code, details, metadata } = error;
  return { code, details, reason: metadata.get('x-reason'), binary: [ ...metadata.get('x-reason-bin')[0] ] };
}

async function received(stream) {
  const messages = [];
  stream.on('data', message => messages.push(message));
  stream.on('error', () => {});
  const { code, details } = await statusOf(stream);
  return { messages, code, details };
}

async function failLate() {
  return await received(client.failLate({ code: 8, text: 'enough' }));
}

async function join() {
  return await new Promise(resolve => {
    const call = client.join(settled(resolve));
    for (const text of [ 'a', 'b', '', 'c' ]) {
      call.write({ text });
    }
    call.end();
  });
}

async function count() {
  const { messages, code } = await received(client.count({ number: 20000 }));
  return { code, messages: messages.length, inOrder: messages.every(({ number }, i) => number === i + 1) };
}

// Each text is sent when the answer to the one before has come: nothing may be held back.
async function chat() {
  const call = client.chat();
  const answers = [];
  for (const text of [ 'one', 'two', 'three' ]) {
    call.write({ text });
    answers.push((await once(call, 'data'))[0].text);
  }
  call.end();
  call.resume();
  return { answers, code: (await statusOf(call)).code };
}

async function large() {
  const text = 'x'.repeat(3 << 20);
  return (await unary('echo', { text })).text === text;
}

async function many() {
  const texts = [ ...Array(300).keys() ].map(i => `call ${i}`);
  const answers = await Promise.all(texts.map(text => unary('echo', { text })));
  return answers.every((answer, i) => answer.text === texts[i]);
}

async function deadline() {
  const { code } = await unary('hang', { text: 'deadline' }, { deadline: Date.now() + 300 });
  return { code, ...await unary('hung', { text: 'deadline' }) };
}

async function cancel() {
  const result = new Promise(resolve => {
    const call = client.hang({ text: 'cancel' }, settled(resolve));
    unary('who', {}).then(() => call.cancel()); // the server has it by then
  });
  return { code: (await result).code, ...await unary('hung', { text: 'cancel' }) };
}

async function unknown() {
  const same = value => value;
  const { code } = await new Promise(resolve => {
    client.makeUnaryRequest('/example.Calls/Nothing', same, same, Buffer.alloc(0), settled(resolve));
  });
  return code;
}

async function all() {
  const result = {};
  for (const call of [ echo, fail, failLate, join, count, chat, large, many, deadline, cancel, unknown ]) {
    result[call.name] = await call();
  }
  return result;
}

async function name() {
  const { text, details } = await unary('who', {});
  return text || details;
}

async function main() {
  const answer = words.length ? await who(name, words) : await all();
  process.stdout.write(JSON.stringify(answer) + '\n', () => process.exit(0));
}

main().catch(error => {
  console.error(error);
  process.exit(1);
});
