// SPDX-License-Identifier: Apache-2.0
// A server of grpc-js for calls.proto: grpc_server.js PORT NAME
'use strict';

const EventEmitter = require('events');
const grpc = require('@grpc/grpc-js');
const { Calls } = require('./grpc_service');

const [ port, name ] = process.argv.slice(2);
const cancelled = new Map();
const cancellations = new EventEmitter();

function metadataOf(call, suffix) {
  const metadata = new grpc.Metadata();
  for (const value of call.metadata.get('x-echo')) {
    metadata.add('x-echo' + suffix, value);
  }
  return metadata;
}

function echo(call, done) {
  call.sendMetadata(metadataOf(call, ''));
  done(null, call.request, metadataOf(call, '-trailer'));
}

function fail(call, done) {
  const metadata = new grpc.Metadata();
  metadata.set('x-reason', 'asked for');
  metadata.set('x-reason-bin', Buffer.from([ 0, 255, 10 ]));
  done({ code: call.request.code, details: call.request.text, metadata });
}

function failLate(call) {
  call.write({ text: 'first' });
  call.emit('error', { code: call.request.code, details: call.request.text });
}

function join(call, done) {
  let text = '';
  call.on('data', message => { text += message.text; });
  call.on('end', () => done(null, { text }));
}

async function count(call) {
  for (let number = 1; number <= call.request.number && !call.cancelled; number++) {
    if (!call.write({ number })) {
      await EventEmitter.once(call, 'drain');
    }
  }
  call.end();
}

function chat(call) {
  call.on('data', message => call.write({ text: [ ...message.text ].reverse().join('') }));
  call.on('end', () => call.end());
}

function hang(call) {
  call.on('cancelled', () => {
    cancelled.set(call.request.text, { had_deadline: Number.isFinite(Number(call.getDeadline())) });
    cancellations.emit(call.request.text);
  });
}

async function hung(call, done) {
  const { text } = call.request;
  if (!cancelled.has(text)) {
    await EventEmitter.once(cancellations, text);
  }
  done(null, cancelled.get(text));
}

const server = new grpc.Server();
server.addService(Calls.service, {
  echo, fail, failLate, join, count, chat, hang, hung, who: (call, done) => done(null, { text: name }),
});
server.bindAsync(`[::]:${port}`, grpc.ServerCredentials.createInsecure(), error => {
  if (error) throw error;
});
