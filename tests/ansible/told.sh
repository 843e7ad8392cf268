#!/bin/sh
echo "told $*"
