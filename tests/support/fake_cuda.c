// A libcuda.so.1 for tests: "device" memory is host memory, streams run at once, a "cubin" is a
// shared object whose kernels are C functions, and a graph runs in a random order that respects
// its edges. It has just the entry points that Ingot calls.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef int R;
typedef uint64_t u64;
typedef uint32_t u32;
enum { OK = 0, INVALID = 1, OOM = 2, NO_IMAGE = 200, NOT_FOUND = 500 };
static const u64 TOTAL = 1ull << 30;
static u64 used;
typedef struct { u64 size; u64 pad[31]; } Head;  // keeps what follows aligned to 256

R cuInit(u32 f) { return OK; }
R cuDriverGetVersion(int *v) { *v = 13000; return OK; }
R cuDeviceGetCount(int *n) { *n = 1; return OK; }
R cuDeviceGet(int *d, int i) { *d = i; return i ? 101 : OK; }
R cuDeviceGetName(char *s, int n, int d) { snprintf(s, n, "Fake GPU"); return OK; }
R cuDeviceTotalMem_v2(size_t *b, int d) { *b = TOTAL; return OK; }
R cuDeviceGetAttribute(int *v, int a, int d) {
  const char *cc = getenv("FAKE_CUDA_CC");
  int arch = cc ? atoi(cc) : 90;
  *v = a == 75 ? arch / 10 : a == 76 ? arch % 10 : a == 16 ? 132 : a == 97 ? 232448 : 1000 + a;
  return OK;
}
R cuDevicePrimaryCtxRetain(void **c, int d) { *c = (void *)0xC7; return OK; }
static __thread void *current;
R cuCtxSetCurrent(void *c) { current = c; return OK; }
R cuCtxGetCurrent(void **c) { *c = current; return OK; }
R cuCtxSynchronize(void) { return OK; }
R cuGetErrorString(R e, const char **s) { *s = e == OOM ? "out of memory" : "an error"; return OK; }
R cuGetErrorName(R e, const char **s) { *s = "CUDA_ERROR"; return OK; }

R cuMemAlloc_v2(u64 *p, size_t n) {
  if (!current || !n) return INVALID;
  if (used + n > TOTAL) return OOM;
  Head *h;
  if (posix_memalign((void **)&h, 256, n + sizeof(Head))) return OOM;
  h->size = n;
  used += n;
  memset(h + 1, 0xAB, n);
  *p = (u64)(h + 1);
  return OK;
}
R cuMemFree_v2(u64 p) { Head *h = (Head *)p - 1; used -= h->size; memset(h + 1, 0xCD, h->size); free(h); return OK; }
R cuMemGetInfo_v2(size_t *f, size_t *t) { *f = TOTAL - used; *t = TOTAL; return OK; }
R cuMemHostAlloc(void **p, size_t n, u32 f) { return posix_memalign(p, 256, n) ? OOM : (memset(*p, 0xAB, n), OK); }
R cuMemFreeHost(void *p) { free(p); return OK; }
R cuMemcpyHtoD_v2(u64 d, const void *s, size_t n) { memmove((void *)d, s, n); return OK; }
R cuMemcpyDtoH_v2(void *d, u64 s, size_t n) { memmove(d, (void *)s, n); return OK; }
R cuMemcpyAsync(u64 d, u64 s, size_t n, void *st) { memmove((void *)d, (void *)s, n); return OK; }
R cuMemsetD8_v2(u64 d, unsigned char v, size_t n) { memset((void *)d, v, n); return OK; }
R cuMemsetD8Async(u64 d, unsigned char v, size_t n, void *st) { memset((void *)d, v, n); return OK; }

typedef void (*Kernel)(void **, const u32 *, u32);
typedef struct { Kernel run; int args; int shared, block_limit; } Function;
// FAKE_CUDA_NO_CODE: machine code for a GPU is taken, and its kernels do nothing (to time the host alone).
static void nothing(void **args, const u32 *grid, u32 block) {}
static int no_code(void) { return getenv("FAKE_CUDA_NO_CODE") != NULL; }
R cuModuleLoadData(void **m, const void *image) {
  if (no_code()) { *m = (void *)0xC0DE; return OK; }
  u64 shoff = *(const u64 *)((const char *)image + 40);
  uint16_t shentsize = *(const uint16_t *)((const char *)image + 58), shnum = *(const uint16_t *)((const char *)image + 60);
  if (memcmp(image, "\x7f" "ELF", 4)) return NO_IMAGE;
  int fd = memfd_create("module", 0);
  size_t n = shoff + (u64)shentsize * shnum;
  if (write(fd, image, n) != (ssize_t)n) return NO_IMAGE;
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  *m = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!*m) fprintf(stderr, "%s\n", dlerror());
  return *m ? OK : NO_IMAGE;
}
R cuModuleUnload(void *m) { return OK; }
R cuModuleGetFunction(void **f, void *m, const char *name) {
  if (no_code()) {
    Function *idle = calloc(1, sizeof *idle);
    *idle = (Function){nothing, 0, 49152};
    *f = idle;
    return OK;
  }
  void *run = dlsym(m, name);
  char count[256];
  snprintf(count, sizeof count, "%s_args", name);
  int *args = dlsym(m, count);
  if (!run || !args) return NOT_FOUND;
  Function *made = calloc(1, sizeof *made);
  made->run = (Kernel)run;
  made->args = *args;
  made->shared = 49152;
  *f = made;
  return OK;
}
// A map begins with a hash of the tensor that it describes.
static R encode(u64 *map, u32 rank, u64 at, const u64 *dims, const u64 *strides) {
  u64 hash = 14695981039346656037ull ^ at;
  for (u32 i = 0; i < rank; i++) hash = (hash ^ dims[i]) * 1099511628211ull;
  for (u32 i = 0; i + 1 < rank; i++) hash = (hash ^ strides[i]) * 1099511628211ull;
  memset(map, 0, 128);
  map[0] = hash;
  return rank && rank <= 5 && at % 16 == 0 ? OK : INVALID;
}
R cuTensorMapEncodeTiled(void *map, u32 type, u32 rank, u64 at, void *dims, void *strides, void *box, void *steps) { return encode(map, rank, at, dims, strides); }
R cuTensorMapEncodeIm2col(void *map, u32 type, u32 rank, u64 at, void *dims, void *strides, void *low, void *up) { return encode(map, rank, at, dims, strides); }
R cuFuncSetAttribute(Function *f, int a, int v) {
  if (a == 8) { if (v > 232448) return INVALID; f->shared = v; }
  return OK;
}
R cuStreamCreate(void **s, u32 f) { *s = malloc(8); return f == 1 ? OK : INVALID; }
R cuStreamDestroy_v2(void *s) { free(s); return OK; }
R cuStreamSynchronize(void *s) { return OK; }
R cuStreamQuery(void *s) { return OK; }
R cuStreamWriteValue32_v2(void *s, u64 p, u32 v, u32 f) { *(volatile u32 *)p = v; return OK; }
R cuStreamWaitEvent(void *s, void *e, u32 f) { return e ? OK : INVALID; }
R cuEventCreate(void **e, u32 f) { *e = calloc(1, sizeof(struct timespec)); return OK; }
R cuEventRecord(void *e, void *s) { clock_gettime(CLOCK_MONOTONIC, e); return OK; }
R cuEventSynchronize(void *e) { return OK; }
R cuEventDestroy_v2(void *e) { free(e); return OK; }
R cuEventElapsedTime_v2(float *ms, struct timespec *a, struct timespec *b) {
  *ms = (b->tv_sec - a->tv_sec) * 1e3f + (b->tv_nsec - a->tv_nsec) * 1e-6f;
  return OK;
}

static R run(Function *f, const u32 *grid, u32 block, u32 shared, void **args) {
  if ((int)shared > f->shared || !grid[0] || !grid[1] || !grid[2] || !block || block > 1024) return INVALID;
  f->run(args, grid, block);
  return OK;
}
typedef struct { u32 grid[3], block[3], shared; void *stream, *attrs; u32 count; } LaunchConfig;
R cuLaunchKernelEx(LaunchConfig *c, Function *f, void **args, void **extra) { return run(f, c->grid, c->block[0], c->shared, args); }

typedef struct { Function *f; u32 grid[3], block[3], shared; void **args; } KernelParams;
typedef struct {
  size_t sx, sy, sz, slod; u32 stype; const void *shost; u64 sdev; void *sarray, *r0; size_t spitch, sheight;
  size_t dx, dy, dz, dlod; u32 dtype; void *dhost; u64 ddev; void *darray, *r1; size_t dpitch, dheight;
  size_t width, height, depth;
} Copy3D;
typedef struct { int flags, reserved; void *ctx; Copy3D c; } CopyParams;
typedef struct { u64 dst; size_t pitch; u32 value, element; size_t width, height; void *ctx; } SetParams;
typedef struct { u32 type; int reserved[3]; union { KernelParams k; CopyParams c; SetParams s; char pad[232]; }; } NodeParams;
typedef struct { unsigned char from, to, type, reserved[5]; } Edge;
typedef struct Node Node;
typedef struct Graph Graph;
struct Node { NodeParams p; u64 values[64]; int before, cluster, number; Node **from; Graph *in; int done; };
struct Graph { Node **nodes; int count, gone; };
static u64 programmatic_edges, instantiated, destroyed, updated;
u64 fake_programmatic_edges(void) { return programmatic_edges; }
u64 fake_instantiated(void) { return instantiated; }
u64 fake_executables(void) { return instantiated - destroyed; }
u64 fake_updated(void) { return updated; }
// What a node does, from the caller's memory. A node is copied when its graph is instantiated, so that each has its own.
static R set(Node *node, NodeParams *p) {
  node->p = *p;
  if (p->type == 0)
    for (int i = 0; i < p->k.f->args; i++) node->values[i] = *(u64 *)p->k.args[i];
  else if (p->type == 1) {
    if (p->c.c.stype != 4 || p->c.c.dtype != 4 || !p->c.c.width || !p->c.c.height || p->c.c.depth != 1 || !p->c.ctx) return INVALID;
  } else if (p->type != 2 || p->s.element != 1 || p->s.height != 1 || !p->s.ctx)
    return INVALID;
  return OK;
}

R cuGraphCreate(void **g, u32 f) { *g = calloc(1, sizeof(Graph)); return OK; }
R cuGraphDestroy(Graph *g) { g->gone = 1; return OK; }
R cuGraphAddNode_v2(void **out, Graph *g, void **deps, const Edge *edges, size_t n, NodeParams *p) {
  Node *node = calloc(1, sizeof *node);
  node->before = n;
  node->from = malloc(n * sizeof(void *));
  for (size_t i = 0; i < n; i++) {
    node->from[i] = deps[i];
    for (size_t j = 0; j < i; j++) if (deps[j] == deps[i]) return INVALID;
    if (edges && edges[i].type) {
      if (edges[i].from != 1 || edges[i].type != 1 || p->type || node->from[i]->p.type) return INVALID;
      programmatic_edges++;
    }
  }
  R r = set(node, p);
  if (r) return r;
  node->in = g;
  node->number = g->count;
  g->nodes = realloc(g->nodes, (g->count + 1) * sizeof(void *));
  g->nodes[g->count++] = node;
  *out = node;
  return OK;
}
R cuGraphAddNode(void **out, Graph *g, void **deps, const Edge *e, size_t n, NodeParams *p) { return cuGraphAddNode_v2(out, g, deps, e, n, p); }
R cuGraphKernelNodeSetAttribute(Node *n, int id, const u32 *v) {
  if (id == 2) return v[0] == 1 ? OK : INVALID;
  n->cluster = v[0];
  return id == 4 && n->p.k.grid[0] % v[0] == 0 ? OK : INVALID;
}
R cuGraphInstantiateWithFlags(void **out, Graph *g, u64 f) {
  Graph *e = calloc(1, sizeof *e);
  e->count = g->count;
  e->nodes = malloc(g->count * sizeof(void *));
  for (int i = 0; i < g->count; i++) {
    Node *n = e->nodes[i] = malloc(sizeof *n);
    *n = *g->nodes[i];
    n->from = malloc(n->before * sizeof(void *));
    for (int j = 0; j < n->before; j++) n->from[j] = e->nodes[g->nodes[i]->from[j]->number];  // those came earlier
  }
  instantiated++;
  *out = e;
  return OK;
}
R cuGraphExecNodeSetParams(Graph *e, Node *n, NodeParams *p) {
  if (n->in->gone || n->number >= e->count) return INVALID;
  Node *mine = e->nodes[n->number];
  if (mine->p.type != p->type) return INVALID;
  if (p->type == 0 && (p->k.f != mine->p.k.f || (n->cluster && p->k.grid[0] % n->cluster))) return INVALID;
  if (p->type == 1 && (p->c.c.height != 1 || mine->p.c.c.height != 1)) return INVALID;
  updated++;
  return set(mine, p);
}
// The nodes of an executable as numbers: function, grid, block, shared memory and arguments, or to, from and size.
int fake_dump(Graph *e, u64 *to) {
  u64 *start = to;
  for (int i = 0; i < e->count; i++) {
    const NodeParams *p = &e->nodes[i]->p;
    *to++ = p->type;
    *to++ = e->nodes[i]->cluster;
    if (p->type == 0) {
      *to++ = (u64)p->k.f;
      for (int j = 0; j < 3; j++) *to++ = p->k.grid[j];
      *to++ = p->k.block[0];
      *to++ = p->k.shared;
      for (int j = 0; j < p->k.f->args; j++) *to++ = e->nodes[i]->values[j];
    } else if (p->type == 1) {
      *to++ = p->c.c.ddev;
      *to++ = p->c.c.sdev;
      *to++ = p->c.c.width;
    }
    *to++ = e->nodes[i]->before;
    for (int j = 0; j < e->nodes[i]->before; j++) *to++ = e->nodes[i]->from[j]->number;
  }
  return to - start;
}
R cuGraphUpload(void *g, void *s) { return OK; }
R cuGraphExecDestroy(Graph *e) {
  for (int i = 0; i < e->count; i++) free(e->nodes[i]->from), free(e->nodes[i]);
  free(e->nodes);
  free(e);
  destroyed++;
  return OK;
}
static R execute(Node *n) {
  if (n->p.type == 0) {
    void *args[64];
    for (int i = 0; i < 64; i++) args[i] = &n->values[i];
    return run(n->p.k.f, n->p.k.grid, n->p.k.block[0], n->p.k.shared, args);
  }
  if (n->p.type == 2) { memset((void *)n->p.s.dst, n->p.s.value, n->p.s.width); return OK; }
  Copy3D *c = &n->p.c.c;
  for (size_t y = 0; y < c->height; y++) memmove((char *)c->ddev + y * c->dpitch, (char *)c->sdev + y * c->spitch, c->width);
  return OK;
}
R cuGraphLaunch(Graph *g, void *s) {
  if (!current) return 201;
  for (int i = 0; i < g->count; i++) g->nodes[i]->done = 0;
  for (int left = g->count; left;) {
    Node *n = g->nodes[rand() % g->count];
    int ready = !n->done;
    for (int i = 0; i < n->before; i++) ready &= n->from[i]->done;
    if (!ready) continue;
    R r = execute(n);
    if (r) return r;
    n->done = 1;
    left--;
  }
  return OK;
}
R cuGetProcAddress_v2(const char *name, void **f, int version, u64 flags, int *status) {
  char full[128];
  *f = NULL;
  void *self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  if (!strcmp(name, "cuGraphInstantiate")) name = "cuGraphInstantiateWithFlags";
  snprintf(full, sizeof full, "%s_v2", name);
  if (self && !(*f = dlsym(self, full))) *f = dlsym(self, name);
  if (status) *status = *f ? 0 : 1;
  return *f ? OK : NOT_FOUND;
}
