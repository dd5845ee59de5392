/* A fake of NVIDIA's driver, for children of tests: device memory is the host's, each block full of other bytes, and the clock
   moves when a test says so. */
#include <stdlib.h>
#include <string.h>

static double now_ms;

void fake_run(double ms) { now_ms += ms; }

int cuInit(unsigned flags) { return (int)flags; }
int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) { *context = malloc(1); return device; }
int cuCtxSetCurrent(void* context) { return context == NULL; }
int cuStreamCreate(void** stream, unsigned flags) { *stream = malloc(1); return flags != 1; }
int cuStreamSynchronize(void* stream) { return stream == NULL; }
int cuEventCreate(void** event, unsigned flags) { *event = calloc(1, sizeof(double)); return (int)flags; }
int cuEventRecord(void* event, void* stream) { *(double*)event = now_ms; return stream == NULL; }
int cuEventSynchronize(void* event) { return event == NULL; }
int cuEventElapsedTime(float* ms, void* from, void* to) { *ms = (float)(*(double*)to - *(double*)from); return 0; }
int cuMemAlloc_v2(unsigned long long* address, size_t size) {
    if (getenv("FAKE_FULL")) return 2; /* CUDA_ERROR_OUT_OF_MEMORY */
    static int block;
    *address = (unsigned long long)malloc(size);
    memset((void*)*address, ++block, size);
    return 0;
}
/* From pageable memory it returns early, and a non-blocking stream does not wait for it: here it always comes too late. */
int cuMemcpyHtoD_v2(unsigned long long to, void const* from, size_t size) { return 0; }
int cuMemcpyHtoDAsync_v2(unsigned long long to, void const* from, size_t size, void* stream) {
    memcpy((void*)to, from, size);
    return stream == NULL;
}
int cuMemcpyDtoH_v2(void* to, unsigned long long from, size_t size) { memcpy(to, (void const*)from, size); return 0; }
