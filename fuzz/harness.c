/* libFuzzer on one side, the targets of targets.py on the other.
 *
 * The interpreter lives in this program, which brings the sanitizers and libFuzzer with it: the
 * extensions, compiled for both, find them here.  An input is handed to the target as a memoryview
 * of exactly its bytes; the target returns how many records it has fed, and an exception is a
 * finding.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <frameobject.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "harness.h"

/* libFuzzer takes these for counters of edges, like the compiler's own. */
enum { LINES = 1 << 14 };
__attribute__((section("__libfuzzer_extra_counters"))) static uint8_t lines[LINES];

static PyObject *target;
static const char *figures_path;
static uint64_t executions, records, fed_bytes;
static time_t told;

enum mutation mutation;

static void tell_figures(void)
{
    FILE *file = figures_path ? fopen(figures_path, "w") : NULL;

    if (!file)
        return;
    fprintf(file, "%llu %llu %llu\n", (unsigned long long)executions,
            (unsigned long long)records, (unsigned long long)fed_bytes);
    fclose(file);
}

/* --- the lines of the package that is written in Python ---------------------------------------- */

static int trace_line(PyObject *unused, PyFrameObject *frame, int what, PyObject *arg)
{
    PyCodeObject *code = PyFrame_GetCode(frame);
    const char *file = PyUnicode_AsUTF8(code->co_filename);
    static uint32_t before;
    uint32_t here;

    (void)unused, (void)arg;
    if (file && what == PyTrace_CALL && !strstr(file, "/blkiomon/")) {
        PyObject_SetAttrString((PyObject *)frame, "f_trace_lines", Py_False);
    } else if (file && what == PyTrace_LINE) {
        for (here = 2166136261u; *file; file++)
            here = (here ^ (uint8_t)*file) * 16777619u;
        here = (here ^ (uint32_t)PyFrame_GetLineNumber(frame)) * 16777619u;
        lines[(here ^ before) % LINES]++;
        before = here >> 1;
    }
    Py_DECREF(code);
    return 0;
}

/* --- what the targets need in C ---------------------------------------------------------------- */

static PyObject *items_of(PyObject *self, PyObject *argument)
{
    static struct item items[MOST_ITEMS];
    Py_buffer view;
    PyObject *list;
    size_t i, n;

    (void)self;
    if (PyObject_GetBuffer(argument, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    n = find_items(view.buf, view.len, items, MOST_ITEMS);
    PyBuffer_Release(&view);
    list = PyList_New(n);
    for (i = 0; list && i < n; i++) {
        PyObject *item = Py_BuildValue(
            "nnii", (Py_ssize_t)items[i].at, (Py_ssize_t)(items[i].at + items[i].length),
            items[i].version, items[i].big_endian);
        if (!item) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, i, item);
    }
    return list;
}

static PyObject *repeated(PyObject *self, PyObject *arguments)
{
    static struct item items[MOST_ITEMS];
    Py_buffer view;
    unsigned long long sector_step, time_step;
    unsigned int copies, copy;
    int each;
    size_t n, i, before, length;
    uint8_t *out;
    PyObject *result;

    (void)self;
    if (!PyArg_ParseTuple(arguments, "y*IpKK", &view, &copies, &each, &sector_step, &time_step))
        return NULL;
    result = PyBytes_FromStringAndSize(NULL, view.len * (Py_ssize_t)copies);
    if (!result) {
        PyBuffer_Release(&view);
        return NULL;
    }
    out = (uint8_t *)PyBytes_AS_STRING(result);
    n = find_items(view.buf, view.len, items, MOST_ITEMS);
    for (i = 0, before = 0; i < n; before += items[i++].length) {
        for (copy = 0; copy < copies; copy++) {
            length = items[i].length;
            uint8_t *record = out + (each ? before * copies + copy * length
                                          : before + copy * (size_t)view.len);

            memcpy(record, (uint8_t *)view.buf + items[i].at, length);
            if (!items[i].version)
                continue;
            set_field(record, &items[i], SECTOR,
                      get_field(record, &items[i], SECTOR) + copy * sector_step);
            set_field(record, &items[i], TIME,
                      get_field(record, &items[i], TIME) + copy * time_step);
        }
    }
    PyBuffer_Release(&view);
    return result;
}

static PyMethodDef methods[] = {
    {"items", items_of, METH_O, "A stream's [(begin, end, version or 0, is big-endian)]."},
    {"repeated", repeated, METH_VARARGS,
     "A stream, or each item of it, so many times, with sectors and times moved on."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_fuzz", .m_size = -1, .m_methods = methods,
};

static PyObject *init_module(void)
{
    return PyModule_Create(&module);
}

/* --- libFuzzer's entry points ------------------------------------------------------------------- */

static void fail(void)
{
    if (PyErr_Occurred())
        PyErr_Print();
    fflush(NULL);
    abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *name = getenv("FUZZ_TARGET");
    PyConfig config;
    PyObject *targets;

    (void)argc, (void)argv;
    figures_path = getenv("FUZZ_FIGURES");
    if (!name) {
        fputs("FUZZ_TARGET has to name a target of fuzz/targets.py\n", stderr);
        exit(2);
    }
    mutation = !strcmp(name, "decode") ? STATS
        : !strcmp(name, "from_bytes") ? NUMBERS : !strcmp(name, "json") ? TOKENS : STREAM;
    PyImport_AppendInittab("_fuzz", init_module);
    PyConfig_InitPythonConfig(&config);
    config.install_signal_handlers = 0;
    if (PyStatus_Exception(PyConfig_SetBytesString(&config, &config.program_name, PYTHON)) ||
        PyStatus_Exception(Py_InitializeFromConfig(&config)))
        fail();
    PyConfig_Clear(&config);
    if (PyRun_SimpleString("import sys; sys.path[:0] = ['" TOP "/fuzz', '" TOP "/tests']"))
        fail();
    targets = PyImport_ImportModule("targets");
    target = targets ? PyObject_GetAttrString(targets, name) : NULL;
    if (!target)
        fail();
    if (mutation != STREAM)             /* the other targets spend their time in the extensions */
        PyEval_SetTrace(trace_line, NULL);
    atexit(tell_figures);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    PyObject *view = PyMemoryView_FromMemory((char *)data, (Py_ssize_t)size, PyBUF_READ);
    PyObject *result = view ? PyObject_CallOneArg(target, view) : NULL;
    time_t now = time(NULL);

    if (!result)
        fail();
    executions++;
    records += PyLong_AsUnsignedLongLong(result);
    fed_bytes += size;
    Py_DECREF(result);
    Py_DECREF(view);
    if (now != told) {
        told = now;
        tell_figures();
    }
    return 0;
}
