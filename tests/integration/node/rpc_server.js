// SPDX-License-Identifier: Apache-2.0
// A server of sofa-rpc-node: rpc_server.js bolt|dubbo PORT NAME
'use strict';

const { RpcServer } = require('sofa-rpc-node').server;
const { INTERFACE, VERSION, protocol, delegate } = require('./services');

const [ name, port, own ] = process.argv.slice(2);
const quiet = { info() {}, warn: console.warn, error() {} };

const server = new RpcServer({ logger: quiet, port: Number(port), protocol: protocol(name), version: VERSION });
server.addService({ interfaceName: INTERFACE }, delegate(own));
server.start();
