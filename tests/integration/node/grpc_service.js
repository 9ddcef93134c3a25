// SPDX-License-Identifier: Apache-2.0
// The service of calls.proto, as both ends load it.
'use strict';

const path = require('path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const definition = loader.loadSync(path.join(__dirname, 'calls.proto'), { keepCase: true, defaults: true });

exports.Calls = grpc.loadPackageDefinition(definition).example.Calls;
