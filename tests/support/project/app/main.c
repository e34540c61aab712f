#include "calc.h"

#include <stdio.h>

int main(int argc, char **argv)
{
	long result;
	if (evaluate(argc - 1, argv + 1, &result) < 0) {
		fputs("calc: malformed expression\n", stderr);
		return 1;
	}
	printf("%ld\n", result);
	return 0;
}
