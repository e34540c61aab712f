#include "calc.h"

#include <stdlib.h>

int is_number(const char *word, long *value)
{
	char *end;
	*value = strtol(word, &end, 10);
	return end != word && *end == 0;
}
