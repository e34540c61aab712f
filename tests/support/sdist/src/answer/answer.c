#define PY_SSIZE_T_CLEAN
#include <Python.h>

static PyObject *answer(PyObject *self, PyObject *args)
{
	long factor = 0;
	(void)self;
	if (!PyArg_ParseTuple(args, "l", &factor))
		return NULL;
	return PyLong_FromLong(6 * factor);
}

static PyMethodDef methods[] = {
	{ "answer", answer, METH_VARARGS, "Six times a number." },
	{ NULL, NULL, 0, NULL },
};

static struct PyModuleDef module = { PyModuleDef_HEAD_INIT, "_answer", NULL, -1, methods };

PyMODINIT_FUNC PyInit__answer(void)
{
	return PyModule_Create(&module);
}
