"""LangChain and LangGraph on the AIOS kernel."""
