#include "calc.h"

static int apply(struct stack *stack, char operator)
{
	long right, left;
	if (pop(stack, &right) < 0 || pop(stack, &left) < 0)
		return -1;
	switch (operator) {
	case '+':
		return push(stack, left + right);
	case '-':
		return push(stack, left - right);
	case '*':
		return push(stack, left * right);
	default:
		return -1;
	}
}

int evaluate(int count, char **words, long *result)
{
	struct stack stack = { .depth = 0 };
	for (int i = 0; i < count; i++) {
		long value;
		int failed = is_number(words[i], &value) ? push(&stack, value)
							 : apply(&stack, words[i][0]);
		if (failed)
			return -1;
	}
	return pop(&stack, result);
}
