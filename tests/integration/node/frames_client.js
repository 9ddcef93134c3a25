// SPDX-License-Identifier: Apache-2.0
// The frames themselves, by the encoder and decoder that sofa-bolt-node and dubbo-remoting export, on one connection:
// frames_client.js bolt|bolt2|bolt2-crc|dubbo HOST PORT [TIMEOUT]. Prints what came as JSON; with TIMEOUT, in ms, what a
// call gets whose answer takes far longer, and the next one. The client itself waits for ever.
'use strict';

const net = require('net');
const pump = require('pump');
const { INTERFACE, VERSION, protocol } = require('./services');

const [ name, host, port, timeout ] = process.argv.slice(2);

class Connection {
  constructor() {
    const { encoder, decoder } = protocol(name);
    const options = { sentReqs: new Map(), classCache: new Map() };
    this.waiting = options.sentReqs; // the decoder of protobuf looks there, too
    this.unasked = [];
    this.encoder = encoder(options);
    if (name.startsWith('bolt2')) {
      Object.assign(this.encoder, { protocolType: 'bolt2', boltVersion: 2, crcEnable: name === 'bolt2-crc' });
    }
    const reader = decoder(options);
    for (const kind of [ 'response', 'heartbeat_ack' ]) {
      reader.on(kind, packet => this.take(kind, packet));
    }
    const socket = net.connect({ host, port: Number(port), noDelay: true });
    pump(this.encoder, socket, reader, error => {
      for (const { reject } of this.waiting.values()) {
        reject(error || new Error('the connection ended'));
      }
    });
  }

  take(kind, packet) {
    const call = this.waiting.get(packet.packetId);
    if (!call) {
      this.unasked.push(packet.packetId);
      return;
    }
    this.waiting.delete(packet.packetId);
    call.resolve({ kind, ...packet });
  }

  async await(id) {
    return await new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject }));
  }

  write(id, method, args, more) {
    this.encoder.writeRequest(id, {
      args, serverSignature: `${INTERFACE}:${VERSION}`, methodName: method, timeout: 10000, ...more,
    });
  }

  async call(id, method, args, more) {
    const answer = this.await(id);
    this.write(id, method, args, more);
    const { data } = await answer;
    return data.error ? { error: data.error.message } : data.appResponse;
  }

  async heartbeat(id) {
    const answer = this.await(id);
    this.encoder.writeHeartbeat(id, { clientUrl: 'here' });
    return (await answer).kind;
  }

  async noted(id, text) {
    while (!(await this.call(id++, 'noted', [ text ])));
    return true;
  }
}

async function all(connection) {
  const ids = [ 1, 2, 0x7fffffff, 77, 0x12345678 ];
  const result = {
    heartbeat: await connection.heartbeat(5),
    ids: await Promise.all(ids.map((id, i) => connection.call(id, 'slow', [ 50 - 10 * i, `id ${id}` ]))),
  };
  if (name !== 'dubbo') {
    connection.write(1000, 'note', [ 'one-way' ], { oneway: true });
    result.oneway = await connection.noted(2000, 'one-way');
  }
  result.again = await connection.heartbeat(5);
  result.last = await connection.call(7, 'sum', [ 40, 2 ]);
  result.unasked = connection.unasked.filter(id => id !== 1000); // sofa-rpc-node answers one-way requests, too
  return result;
}

async function late(connection) {
  const slow = connection.call(6, 'slow', [ 60000, 'late' ], { timeout: Number(timeout) });
  return { slow: await slow, next: await connection.call(7, 'sum', [ 40, 2 ]), unasked: connection.unasked };
}

async function main() {
  const result = await (timeout ? late : all)(new Connection());
  process.stdout.write(JSON.stringify(result) + '\n', () => process.exit(0));
}

main().catch(error => {
  console.error(error);
  process.exit(1);
});
