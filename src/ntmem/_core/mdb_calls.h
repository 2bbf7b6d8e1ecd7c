/* LMDB as a table of functions: it is compiled into one module, and others call it through this.
 *
 * All of them are LMDB's own (lmdb.h says what they do) and need no GIL. Two copies of LMDB in a process that open one
 * file would drop each other's locks, so nobody else links it.
 */
#ifndef NTMEM_MDB_CALLS_H
#define NTMEM_MDB_CALLS_H

#include "lmdb.h"

typedef struct mdb_calls {
    int (*txn_begin)(MDB_env *env, MDB_txn *parent, unsigned int flags, MDB_txn **txn);
    int (*txn_commit)(MDB_txn *txn);
    void (*txn_abort)(MDB_txn *txn);
    void (*txn_reset)(MDB_txn *txn);
    int (*txn_renew)(MDB_txn *txn);
    size_t (*txn_id)(MDB_txn *txn);
    int (*get)(MDB_txn *txn, MDB_dbi dbi, MDB_val *key, MDB_val *data);
    int (*put)(MDB_txn *txn, MDB_dbi dbi, MDB_val *key, MDB_val *data, unsigned int flags);
    int (*del)(MDB_txn *txn, MDB_dbi dbi, MDB_val *key, MDB_val *data);
    int (*cursor_open)(MDB_txn *txn, MDB_dbi dbi, MDB_cursor **cursor);
    void (*cursor_close)(MDB_cursor *cursor);
    int (*cursor_get)(MDB_cursor *cursor, MDB_val *key, MDB_val *data, MDB_cursor_op op);
    int (*cursor_put)(MDB_cursor *cursor, MDB_val *key, MDB_val *data, unsigned int flags);
    int (*cursor_del)(MDB_cursor *cursor, unsigned int flags);
    int (*stat)(MDB_txn *txn, MDB_dbi dbi, MDB_stat *stat);
    int (*env_info)(MDB_env *env, MDB_envinfo *info);
    int (*env_stat)(MDB_env *env, MDB_stat *stat);
    int (*env_sync)(MDB_env *env, int force);
    int (*reader_check)(MDB_env *env, int *dead);
    char *(*strerror)(int code);
} mdb_calls_t;

#endif
