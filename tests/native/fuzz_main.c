/* Drives the fuzz target without coverage feedback, where the compiler has no libFuzzer:
 * bounded in time, seeded, mutating one valid plan. Argument: seconds. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sample_plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t random_state = 0x9e3779b97f4a7c15ULL;

static uint32_t next_random(uint32_t bound)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)(random_state % bound);
}

int main(int argc, char **argv)
{
	const char *seconds = getenv("SBX_FUZZ_SECONDS");
	time_t end = time(NULL) + atoi(argc > 1 ? argv[1] : seconds ? seconds : "10");
	unsigned long runs = 0;
	uint8_t buffer[SAMPLE_MAX];
	while (time(NULL) < end) {
		for (int batch = 0; batch < 1000; batch++, runs++) {
			size_t size = sample_plan(buffer);
			if (next_random(4) == 0)
				size = next_random((uint32_t)size + 1);
			for (uint32_t flips = next_random(8); flips && size; flips--)
				buffer[next_random((uint32_t)size)] = (uint8_t)next_random(256);
			LLVMFuzzerTestOneInput(buffer, size);
		}
	}
	printf("%lu inputs\n", runs);
	return 0;
}
