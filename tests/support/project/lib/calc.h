#ifndef CALC_H
#define CALC_H

struct stack {
	long values[64];
	int depth;
};

int push(struct stack *stack, long value);
int pop(struct stack *stack, long *value);
int is_number(const char *word, long *value);
int evaluate(int count, char **words, long *result);

#endif
