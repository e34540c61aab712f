#include "calc.h"

int push(struct stack *stack, long value)
{
	if (stack->depth == 64)
		return -1;
	stack->values[stack->depth++] = value;
	return 0;
}

int pop(struct stack *stack, long *value)
{
	if (stack->depth == 0)
		return -1;
	*value = stack->values[--stack->depth];
	return 0;
}
