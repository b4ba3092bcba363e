/* A CUDA runtime without a GPU, to be preloaded: one device whose memory is the host's, in which every kernel launch is counted
   and none is done. What kernels would compute, device.py computes. SIMULATED_GPU_MB: the device's memory. */
#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>
#undef cudaGetDeviceProperties
#undef cudaGetDriverEntryPointByVersion
#undef cudaStreamGetCaptureInfo

static long launched;
static size_t taken;

long simulated_launches(void) { return launched; }
long simulated_bytes(void) { return (long)taken; }

static size_t memory(void) {
  const char *mb = getenv("SIMULATED_GPU_MB");
  return (size_t)(mb ? atol(mb) : 8000) << 20;
}

/* Every block begins with a line that holds its size, so that freeing it can give it back; 0 for what is the host's. */
enum { LINE = 512 };

static cudaError_t take(void **at, size_t size, int of_device) {
  if (of_device && taken + size > memory()) return cudaErrorMemoryAllocation;
  char *block = aligned_alloc(LINE, (size + 2 * LINE - 1) / LINE * LINE);
  if (!block) return cudaErrorMemoryAllocation;
  *(size_t *)block = of_device ? size : 0;
  if (of_device) taken += size;
  *at = block + LINE;
  return cudaSuccess;
}

static cudaError_t give(void *at) {
  if (at) {
    char *block = (char *)at - LINE;
    taken -= *(size_t *)block;
    free(block);
  }
  return cudaSuccess;
}

#define YES(name, ...) \
  cudaError_t name(__VA_ARGS__) { return cudaSuccess; }
#define GIVES(name, value, type, ...) \
  cudaError_t name(type *out, ##__VA_ARGS__) { *out = value; return cudaSuccess; }
#define LAUNCHES(name, ...) \
  cudaError_t name(__VA_ARGS__) { launched++; return cudaSuccess; }

GIVES(cudaGetDeviceCount, 1, int)
GIVES(cudaGetDevice, 0, int)
GIVES(cudaDriverGetVersion, CUDART_VERSION, int)
GIVES(cudaRuntimeGetVersion, CUDART_VERSION, int)
GIVES(cudaDeviceCanAccessPeer, 0, int, int a, int b)
GIVES(cudaOccupancyMaxActiveBlocksPerMultiprocessor, 4, int, const void *f, int block, size_t shared)
GIVES(cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags, 4, int, const void *f, int block, size_t shared, unsigned flags)
GIVES(cudaStreamCreate, malloc(8), cudaStream_t)
GIVES(cudaStreamCreateWithFlags, malloc(8), cudaStream_t, unsigned flags)
GIVES(cudaStreamCreateWithPriority, malloc(8), cudaStream_t, unsigned flags, int priority)
GIVES(cudaEventCreate, malloc(8), cudaEvent_t)
GIVES(cudaEventCreateWithFlags, malloc(8), cudaEvent_t, unsigned flags)
GIVES(cudaEventElapsedTime, 1.0f, float, cudaEvent_t a, cudaEvent_t b)

YES(cudaSetDevice, int device)
YES(cudaDeviceSynchronize, void)
YES(cudaStreamDestroy, cudaStream_t s)
YES(cudaStreamSynchronize, cudaStream_t s)
YES(cudaStreamQuery, cudaStream_t s)
YES(cudaStreamWaitEvent, cudaStream_t s, cudaEvent_t e, unsigned flags)
YES(cudaThreadExchangeStreamCaptureMode, enum cudaStreamCaptureMode *mode)
YES(cudaEventDestroy, cudaEvent_t e)
YES(cudaEventRecord, cudaEvent_t e, cudaStream_t s)
YES(cudaEventRecordWithFlags, cudaEvent_t e, cudaStream_t s, unsigned flags)
YES(cudaEventQuery, cudaEvent_t e)
YES(cudaEventSynchronize, cudaEvent_t e)
YES(cudaHostRegister, void *p, size_t n, unsigned flags)
YES(cudaHostUnregister, void *p)
YES(cudaGetLastError, void)
YES(cudaPeekAtLastError, void)
YES(cudaFuncSetAttribute, const void *f, enum cudaFuncAttribute a, int value)

LAUNCHES(cudaLaunchKernel, const void *f, dim3 g, dim3 b, void **a, size_t n, cudaStream_t s)
LAUNCHES(cudaLaunchKernelExC, const cudaLaunchConfig_t *c, const void *f, void **a)
LAUNCHES(__cudaLaunchKernel, const void *f, dim3 g, dim3 b, void **a, size_t n, cudaStream_t s)
LAUNCHES(__cudaLaunchKernel_ptsz, const void *f, dim3 g, dim3 b, void **a, size_t n, cudaStream_t s)

cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void **at, size_t n) { return take(at, n, 1); }
cudaError_t cudaMallocAsync(void **at, size_t n, cudaStream_t s) { return take(at, n, 1); }
cudaError_t cudaHostAlloc(void **at, size_t n, unsigned flags) { return take(at, n, 0); }
cudaError_t cudaMallocHost(void **at, size_t n) { return take(at, n, 0); }
cudaError_t cudaFree(void *at) { return give(at); }
cudaError_t cudaFreeAsync(void *at, cudaStream_t s) { return give(at); }
cudaError_t cudaFreeHost(void *at) { return give(at); }

cudaError_t cudaMemGetInfo(size_t *left, size_t *total) {
  *total = memory();
  *left = *total - taken;
  return cudaSuccess;
}

static cudaError_t copy(void *to, const void *from, size_t n) {
  memcpy(to, from, n);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t n, enum cudaMemcpyKind kind) { return copy(to, from, n); }
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind kind, cudaStream_t s) { return copy(to, from, n); }
cudaError_t cudaMemcpyPeerAsync(void *to, int a, const void *from, int b, size_t n, cudaStream_t s) { return copy(to, from, n); }

cudaError_t cudaMemset(void *at, int value, size_t n) {
  memset(at, value, n);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *at, int value, size_t n, cudaStream_t s) { return cudaMemset(at, value, n); }

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
  memset(a, 0, sizeof *a);
  a->type = cudaMemoryTypeUnregistered;
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *f) {
  memset(a, 0, sizeof *a);
  a->maxThreadsPerBlock = 1024;
  return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(
    const char *name, void **f, unsigned version, unsigned long long flags, enum cudaDriverEntryPointQueryResult *found) {
  *f = 0;
  if (found) *found = cudaDriverEntryPointSymbolNotFound;
  return cudaErrorNotSupported;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int n, int device) {
  strncpy(id, "0000:00:00.0", n);
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr what, int device) {
  *value = what == cudaDevAttrComputeCapabilityMajor ? 9 : what == cudaDevAttrMultiProcessorCount ? 132 : 0;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "Simulated GPU");
  p->major = 9;
  p->totalGlobalMem = memory();
  p->multiProcessorCount = 132;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = 2048;
  p->sharedMemPerBlock = 48 << 10;
  p->sharedMemPerBlockOptin = p->sharedMemPerMultiprocessor = 227 << 10;
  p->regsPerBlock = p->regsPerMultiprocessor = 64 << 10;
  p->l2CacheSize = 50 << 20;
  p->textureAlignment = 512;
  for (int i = 0; i < 3; i++) {
    p->maxGridSize[i] = 65535;
    p->maxThreadsDim[i] = i < 2 ? 1024 : 64;
  }
  p->maxGridSize[0] = 2147483647;
  return cudaSuccess;
}
