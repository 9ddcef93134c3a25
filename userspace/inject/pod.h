// SPDX-License-Identifier: Apache-2.0
// What is to be done to one pod: looks at a pod (or the template of pods in a Deployment and the like) and
// says whether weir goes in, with which settings, and which probes have to be handed to the proxy. Changes
// nothing; edit.h and review.h do.
//
// Probes. The kubelet asks without mutual TLS, and a TCP probe of a captured port would find the proxy
// there, whether or not the application lives. So HTTP, TCP and gRPC probes, and HTTP handlers of the
// container's lifecycle, ask the proxy instead, which asks the application, on the pod's own address as the
// kubelet did: `httpGet` of /weir/probe/CONTAINER/PROBE on a port that is not captured. What is asked is
// fixed in the proxy's arguments: nobody else learns more than the kubelet does.
#pragma once

#include "inject/settings.h"
#include "inject/tree.h"
#include "inject/writer.h"

#define CONTAINER_PROXY "weir-proxy"
#define CONTAINER_INIT	"weir-init"
#define PROBE_PATH	"/weir/probe/"

// One probe or lifecycle handler that the proxy takes over.
struct pod_probe {
	const struct node *probe;   // the value of livenessProbe and so on
	const struct node *handler; // of httpGet, tcpSocket or grpc in it
	const char *name;	    // "liveness"
	struct str container;
	const char *list; // where the container stands: "containers" or "initContainers"
	uint32_t index;
	const char *group; // the key that the probe stands in: NULL, or "lifecycle"
	uint16_t port;
};

struct pod {
	const struct node *spec;
	struct settings settings;
	struct pod_probe *probes; // in the tree's arena
	size_t probe_count;
	const char *skip; // why the pod stays as it is; NULL: it gets weir
	bool unfit;	  // it cannot have weir: somebody may want to know
	bool injected;	  // it has weir already, which is why it is skipped
};

// `template` has metadata and spec. Settings are the defaults; annotations come before them. 0; -ENOMEM;
// ERR_CONFIG with "LINE:COLUMN: what" appended to ret_error; ERR_UNSUPPORTED likewise, for what cannot be
// done to a pod that is fine.
int pod_read(struct tree *tree, const struct node *template, const struct settings *settings,
	     struct pod *ret_pod, struct strbuf *ret_error);
// Of a pod that has weir already: reads the probes that its proxy does not know, those of containers that
// came later, and says where that proxy stands in initContainers. No probes if it takes none over. Errors as
// above.
int pod_read_later(struct tree *tree, struct pod *pod, uint32_t *ret_proxy, struct strbuf *ret_error);
// The objects of a List, a list, which may be Lists again; NULL: it is none. 0; -ENOMEM; ERR_CONFIG or
// ERR_UNSUPPORTED as above.
int pod_list(const struct node *document, const struct node **ret_items, struct strbuf *ret_error);
// The template of the pods that an object of this kind makes; NULL: it makes none. `object` itself for a Pod.
// One without a kind has that of the list in which it stands. 0; -ENOMEM; ERR_CONFIG or ERR_UNSUPPORTED as
// above.
int pod_template(const struct node *object, const struct node **ret_template, struct strbuf *ret_error);

// --- what goes in -----------------------------------------------------------------------------------------
// The two containers, in this order: the proxy, whose startup probe must have passed before anything else
// starts, then the one that installs the interception.
void pod_write_proxy(const struct pod *pod, struct writer *writer);
void pod_write_init(const struct pod *pod, struct writer *writer);
// The volumes, by number; some pods do without one.
enum { POD_VOLUMES = 4 };
bool pod_wants_volume(const struct pod *pod, size_t number);
const char *pod_volume_name(size_t number);
void pod_write_volume(const struct pod *pod, size_t number, struct writer *writer);
// The proxy's option for a probe.
void pod_write_probe(const struct pod_probe *probe, const char *key, struct writer *writer);
// The map `httpGet` that takes a probe's place.
void pod_write_handler(const struct pod *pod, const struct pod_probe *probe, struct writer *writer);
